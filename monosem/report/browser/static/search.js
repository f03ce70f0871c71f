"use strict";
/* Search over all dictionaries at once. Terms are sorted and cut into files; a word looks up the file it would be in.
   A posting is (run, feature, how, activation, share, strength): how it matches is one of HOW. Of words that very many
   features have, each run's strongest are in the files, and how many there are (`cut`). */

(() => {
  const { el } = M;
  const HOW = [
    ["Of this kind", "most of its strongest examples are of this kind of text"],
    ["Active on it", "one of its strongest examples is this word or token"],
    ["Predicts it", "it is among the tokens whose logits the feature raises most"],
    ["Active near it", "it stands in the text of its strongest examples"],
  ];
  const AT_FIRST = 12;
  const PREFIXES = 24;        // longer words that begin with the one asked for

  // Marks that people leave out: accents, the choice of a form, points of Hebrew and of Arabic. words.py has the same.
  const WITHOUT = new RegExp("[\\u0300-\\u036f\\u1ab0-\\u1abd\\u1abf-\\u1aff\\u1dc0-\\u1dff\\u20d0-\\u20dc\\u20e1\\u20e5-\\u20f0\\ufe20-\\ufe2f"
    + "\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}\\u0591-\\u05bd\\u05bf\\u05c1\\u05c2\\u05c4\\u05c5\\u05c7"
    + "\\u0610-\\u061a\\u064b-\\u065f\\u0670\\u06d6-\\u06dc\\u06df-\\u06e4\\u06e7\\u06e8\\u06ea-\\u06ed\\u08ca-\\u08e1\\u08e3-\\u08ff]", "gu");
  const NOT_CYRILLIC = /[^\u0400-\u052f]+/gu;      // there a letter with an accent is a letter of its own

  /** Text as the terms are, with the white space around it. */
  function bare(text) {
    return text.normalize("NFKC").replace(NOT_CYRILLIC, (part) => part.normalize("NFD")).replace(WITHOUT, "").normalize("NFC").toLowerCase();
  }

  /** As the terms were written: any case, without accents and vowel points. */
  M.normal = (text) => bare(text).trim();

  /** Postings of one word, and what of them was cut: the word itself, then longer ones that begin with it. */
  async function lookUp(word) {
    const first = M.site.search.first;
    let k = first.findLastIndex((term) => term <= word);
    k = Math.max(0, k);
    const found = [];
    for (let n = 0; k < first.length && found.length < PREFIXES; k++, n++) {
      if (n > 0 && !first[k].startsWith(word)) break;
      const { terms, postings, cut } = await M.load(`search/${k}`);
      let at = lowerBound(terms, word);
      for (; at < terms.length && terms[at].startsWith(word) && found.length < PREFIXES; at++) found.push([terms[at], postings[at], cutOf(cut, at)]);
      if (at < terms.length) break;
    }
    return found;
  }

  /** [how, run, features] of the term at a place of a file, for those of which some are left out. */
  function cutOf(flat, at) {
    const found = [];
    for (let i = 0; i < flat.length; i += 4) if (flat[i] === at) found.push(flat.slice(i + 1, i + 4));
    return found;
  }

  function lowerBound(terms, word) {
    let [a, b] = [0, terms.length];
    while (a < b) {
      const middle = (a + b) >> 1;
      if (terms[middle] < word) a = middle + 1;
      else b = middle;
    }
    return a;
  }

  /** Matches of one word by "run feature": the best way it matches, and how strongly. `cut`: of the word itself. */
  async function matches(word) {
    const best = new Map(), looked = await lookUp(word);
    const isKind = looked.length > 0 && looked[0][0] === word && looked[0][1][2] === 0;   // then longer names are other kinds
    best.cut = looked.filter(([term]) => term === word).flatMap(([, , cut]) => cut);
    for (const [term, flat] of looked) {
      const exact = term === word;
      for (let i = 0; i < flat.length; i += 6) {
        const [run, feature, how, activation, share, relative] = flat.slice(i, i + 6);
        if (how === 0 && isKind && !exact) continue;
        const strength = relative * (how === 0 ? share ** 4 : Math.sqrt(share)) * (exact ? 1 : 0.5);
        const key = `${run} ${feature}`, old = best.get(key);
        if (!old || how < old.how || (how === old.how && strength > old.strength)) {
          best.set(key, { run, feature, how, activation, share, strength, term });
        }
      }
    }
    return best;
  }

  /** What a word is made of, where nothing has it as it is: its letters and digits, or its signs. With their matches. */
  async function inPieces(word) {
    const whole = await matches(word);
    const pieces = whole.size ? [] : word.match(/[\p{L}\p{N}\p{M}]+/gu) ?? word.match(/[^\p{L}\p{N}\p{M}]/gu) ?? [];
    return pieces.length ? Promise.all(pieces.map(async (piece) => [piece, await matches(piece)])) : [[word, whole]];
  }

  /** Matches of all words of a question, strongest first; `partly` if no feature matches every word; `cut`: the pieces that
      were looked for, if words had to be cut; `left`: [how, run, features] of which the strongest alone were looked at; `several`: by more than one word. */
  M.find = async (question) => {
    const whole = M.normal(question);
    const words = [...new Set(whole.split(/[\s_]+/).filter(Boolean))];
    let each = [whole ? await matches(whole) : new Map()], looked = words;      // everything begins with nothing
    if (!each[0].size && words.length) {
      const pieces = new Map((await Promise.all(words.map(inPieces))).flat());
      [looked, each] = [[...pieces.keys()], [...pieces.values()]];
    }
    let partly = false;
    let found = [...each[0].entries()].filter(([key]) => each.every((m) => m.has(key))).map(([key]) => {
      const all = each.map((m) => m.get(key));
      const how = Math.max(...all.map((m) => m.how));
      return { ...all.find((m) => m.how === how), strength: all.reduce((s, m) => s + m.strength, 0) };
    });
    if (!found.length && each.length > 1) {
      found = each.flatMap((m) => [...m.values()]);
      partly = found.length > 0;
    }
    found.sort((a, b) => a.how - b.how || b.strength - a.strength || b.activation - a.activation || a.run - b.run || a.feature - b.feature);
    return { found, partly, cut: looked.join(" ") === words.join(" ") ? null : looked, left: each.flatMap((m) => m.cut || []), several: each.length > 1 };
  };

  /** The results as a view, with a choice of the dictionary. */
  M.results = async (question, main, was) => {
    const { found, partly, cut, left, several } = await M.find(question), jumps = numbered(question);
    const shown = el("div", { class: "found" });
    const runs = [...new Set(found.map((m) => m.run))].sort((a, b) => a - b);
    const isNeuron = (m) => M.site.runs[m.run].kind === "neurons";
    const usual = found.every(isNeuron) ? found : found.filter((m) => !isNeuron(m));
    const choose = el("select", { "aria-label": "dictionary", onchange: (event) => draw(event.target.value) },
      el("option", { value: "all" }, "all dictionaries"), runs.map((r) => el("option", { value: r }, M.visible(`${M.site.runs[r].sweep}/${M.site.runs[r].name}`))));
    const said = el("p", { class: "said", role: "status" });
    let chosen = "all";
    const draw = (which) => {
      chosen = which;
      const kept = which === "all" ? usual : found.filter((m) => m.run === Number(which));
      said.replaceChildren(...(!found.length && jumps.length ? [] : found.length ? [`${M.count(kept.length)} features match in one of the ways below; first those most strongly and most often active on it.`,
        cut ? ` Nothing has it in one piece; looked for ${cut.map((piece) => `\u201c${M.visible(piece)}\u201d`).join(" and ")}.` : "", partly ? " None matches all of the words; these match one." : "",
        several && left.length ? " Of words that very many features have, the strongest of each dictionary were looked at." : ""] : none));
      const cutTo = several ? [] : left.filter(([, run]) => (which === "all" ? kept.some((m) => m.run === run) : run === Number(which)));
      shown.replaceChildren(...(which === "all" ? byNumber(jumps) : []), ...HOW.map(([title, note], how) =>
        part(title, note, kept.filter((m) => m.how === how), cutTo.filter(([h]) => h === how))).filter(Boolean));
    };
    const none = ["No feature matches. ", ...(M.site.search.first.length ? ["Try a shorter piece of the word, or one of the ",
      el("a", { href: "index.html" }, "kinds on the start page"), "."] : [])];
    main.append(el("div", { class: "results" }, el("h1", {}, "Features for ", M.word(question)),
said, runs.length > 1 ? choose : null, shown));
    M.remembering = () => ({ which: chosen });
    if (runs.map(String).includes(was.which)) choose.value = was.which;
    draw(choose.value || "all");
  };

  /** The features that a question like "8x/188", "sweep/8x/188" or "#188" names: [run, feature]. */
  function numbered(question) {
    const [, path, digits] = question.trim().match(/^(?:(.+)\/|#)(\d+)$/) || [], feature = Number(digits);
    return M.site.runs.filter((r) => digits !== undefined && r.open && feature < r.features
      && (path === undefined ? r.kind !== "neurons" : path === r.name || path === `${r.sweep}/${r.name}`)).map((r) => [r, feature]);
  }

  function byNumber(jumps) {
    return jumps.length ? [el("section", {}, el("h2", {}, "By its number"), el("ul", { class: "hits" }, jumps.map(([run, feature]) => line(run, feature, run.sweep))))] : [];
  }

  function part(title, note, list, cut) {
    if (!list.length) return null;
    const kept = (run) => list.filter((m) => m.run === run).length;
    const total = list.length + cut.reduce((sum, [, run, n]) => sum + Math.max(0, n - kept(run)), 0);
    const number = total > list.length ? `${M.count(list.length)} of ${M.count(total)} shown` : M.count(list.length);
    const rows = el("ul", { class: "hits" }, list.slice(0, AT_FIRST).map(hit));
    const more = list.length > AT_FIRST ? el("button", { type: "button", onclick: (event) => {
      rows.append(...list.slice(rows.children.length, rows.children.length + 50).map(hit));
      if (rows.children.length >= list.length) event.target.remove();
    } }, `more of ${M.count(list.length)}`) : null;
    return el("section", {}, el("h2", {}, title, " ", el("span", { class: "n" }, number)),
      el("p", { class: "note" }, `${note[0].toUpperCase()}${note.slice(1)}.${total > list.length ? " The strongest of each dictionary are shown." : ""}`), rows, more);
  }

  /** Whether an example shows why a feature matches: its token is in the word, or for "near" the word is in its text. */
  function hasIt([tokens, centre], texts, { how, term }) {
    if (how !== 1 && how !== 3) return true;
    const shown = M.joined(tokens.map((t) => texts[t])), text = bare(shown.join(""));
    const [before, last] = [centre, centre + 1].map((n) => bare(shown.slice(0, n).join("")).length);
    const first = Math.min(before, last - 1);        // a token may be an accent alone
    for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + 1)) {
      if (how === 3 || (at < last && at + term.length > first)) return true;
    }
    return false;
  }

  M.shows = hasIt;

  /** The strongest example of a feature that shows why it matches, with its texts. */
  async function withIt(run, match) {
    const per = M.site.featuresPerFile;
    const chunk = await M.load(`${run.sweep}/${run.name}/features-${Math.floor(match.feature / per)}`);
    const all = chunk.features[match.feature % per].groups.flatMap(([, list]) => list);
    const found = all.find((example) => hasIt(example, chunk.texts, match));
    return found && [found, chunk.texts];
  }

  function hit(match) {
    const why = [`${M.percent(match.share)} of this kind, activation ${M.number(match.activation)}`,
      `activation ${M.number(match.activation)}, ${M.percent(match.share)} of its top examples`,
      `logit effect ${M.number(match.activation)}`,
      `in ${M.percent(match.share)} of its top examples`][match.how];
    return line(M.site.runs[match.run], match.feature, why, match);
  }

  /** A feature as a line of the list, with an example that shows why it matches. */
  function line(run, feature, why, match = {}) {
    const name = el("span", { class: "name" }, "\u2026"), best = el("span", { class: "best" });
    M.rowOf(run, feature).then((row) => {
      name.replaceChildren(M.featureName(row), ...row.kinds.slice(0, 3).map((k) => el("span", { class: "kind" }, M.visible(k))));
      const show = (example, texts) => best.replaceChildren(M.snippet(example, texts, M.dense(example[2], example[0].length)[example[1]]));
      if (row.best) show(row.best, row.texts);
      if (row.best && !hasIt(row.best, row.texts, match)) withIt(run, match).then((found) => found && show(...found), () => {});
    }, (error) => { name.textContent = M.visible(error.message); });
    return el("li", {}, el("a", { href: M.link("feature", run.sweep, run.name, feature) },
      el("span", { class: "id" }, el("bdi", {}, M.visible(run.name)), `/${feature}`), name, best,
      el("span", { class: "why" }, why)));
  }
})();
