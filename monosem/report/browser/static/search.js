"use strict";
/* Search over all dictionaries at once. Terms are sorted and cut into files; a word looks up the file it would be in.
   A posting is (run, feature, how, activation, share): how it matches is one of HOW. */

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

  /** As the terms were written: any case, without accents and vowel points. */
  M.normal = (text) => text.normalize("NFKD").replace(/\p{Mn}/gu, "").normalize("NFC").toLowerCase().trim();

  /** Postings of one word: the word itself, then longer ones that begin with it. */
  async function lookUp(word) {
    const first = M.site.search.first;
    let k = first.findLastIndex((term) => term <= word);
    k = Math.max(0, k);
    const found = [];
    for (let n = 0; k < first.length && found.length < PREFIXES; k++, n++) {
      if (n > 0 && !first[k].startsWith(word)) break;
      const { terms, postings } = await M.load(`search/${k}`);
      let at = lowerBound(terms, word);
      for (; at < terms.length && terms[at].startsWith(word) && found.length < PREFIXES; at++) found.push([terms[at], postings[at]]);
      if (at < terms.length) break;
    }
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

  /** Matches of one word by "run feature": the best way it matches, and how strongly. */
  async function matches(word) {
    const best = new Map(), looked = await lookUp(word);
    const isKind = looked.length > 0 && looked[0][0] === word && looked[0][1][2] === 0;   // then longer names are other kinds
    for (const [term, flat] of looked) {
      const exact = term === word;
      for (let i = 0; i < flat.length; i += 5) {
        const [run, feature, how, activation, share] = flat.slice(i, i + 5);
        if (how === 0 && isKind && !exact) continue;
        const strength = activation * (how === 0 ? share ** 4 : Math.sqrt(share)) * (exact ? 1 : 0.5);
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
      were looked for, if words had to be cut. */
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
    found.sort((a, b) => a.how - b.how || b.strength - a.strength || a.run - b.run || a.feature - b.feature);
    return { found, partly, cut: looked.join(" ") === words.join(" ") ? null : looked };
  };

  /** The results as a view, with a choice of the dictionary. */
  M.results = async (question, main, was) => {
    const { found, partly, cut } = await M.find(question);
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
      said.replaceChildren(...(found.length ? [`${M.count(kept.length)} features match in one of the ways below; first those most strongly and most often active on it.`,
        cut ? ` Nothing has it in one piece; looked for ${cut.map((piece) => `\u201c${M.visible(piece)}\u201d`).join(" and ")}.` : "", partly ? " None matches all of the words; these match one." : ""] : none));
      shown.replaceChildren(...HOW.map(([title, note], how) => part(title, note, kept.filter((m) => m.how === how))).filter(Boolean));
    };
    const none = ["No feature matches. ", ...(M.site.search.first.length ? ["Try a shorter piece of the word, or one of the ",
      el("a", { href: "index.html" }, "kinds on the start page"), "."] : [])];
    main.append(el("div", { class: "results" }, el("h1", {}, "Features for ", M.word(question)),
said, runs.length > 1 ? choose : null, shown));
    M.remembering = () => ({ which: chosen });
    if (runs.map(String).includes(was.which)) choose.value = was.which;
    draw(choose.value || "all");
  };

  function part(title, note, list) {
    if (!list.length) return null;
    const rows = el("ul", { class: "hits" }, list.slice(0, AT_FIRST).map(hit));
    const more = list.length > AT_FIRST ? el("button", { type: "button", onclick: (event) => {
      rows.append(...list.slice(rows.children.length, rows.children.length + 50).map(hit));
      if (rows.children.length >= list.length) event.target.remove();
    } }, `more of ${M.count(list.length)}`) : null;
    return el("section", {}, el("h2", {}, title, " ", el("span", { class: "n" }, M.count(list.length))), el("p", { class: "note" }, `${note[0].toUpperCase()}${note.slice(1)}.`), rows, more);
  }

  /** Whether an example shows why a feature matches: its token is in the word, or for "near" the word is in its text. */
  function hasIt([tokens, centre], texts, { how, term }) {
    if (how !== 1 && how !== 3) return true;
    const shown = M.joined(tokens.map((t) => texts[t])), text = shown.join("").toLowerCase();
    const first = shown.slice(0, centre).join("").length, last = first + shown[centre].length;
    for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + 1)) {
      if (how === 3 || (at < last && at + term.length > first)) return true;
    }
    return false;
  }

  /** The strongest example of a feature that shows why it matches, with its texts. */
  async function withIt(run, match) {
    const per = M.site.featuresPerFile;
    const chunk = await M.load(`${run.sweep}/${run.name}/features-${Math.floor(match.feature / per)}`);
    const all = chunk.features[match.feature % per].groups.flatMap(([, list]) => list);
    const found = all.find((example) => hasIt(example, chunk.texts, match));
    return found && [found, chunk.texts];
  }

  function hit(match) {
    const run = M.site.runs[match.run];
    const name = el("span", { class: "name" }, "\u2026"), best = el("span", { class: "best" });
    M.rowOf(run, match.feature).then((row) => {
      name.replaceChildren(M.featureName(row), ...row.kinds.slice(0, 3).map((k) => el("span", { class: "kind" }, M.visible(k))));
      const show = (example, texts) => best.replaceChildren(M.snippet(example, texts, M.dense(example[2], example[0].length)[example[1]]));
      if (row.best) show(row.best, row.texts);
      if (row.best && !hasIt(row.best, row.texts, match)) withIt(run, match).then((found) => found && show(...found), () => {});
    }, (error) => { name.textContent = M.visible(error.message); });
    const why = [`${M.percent(match.share)} of this kind, activation ${M.number(match.activation)}`,
      `activation ${M.number(match.activation)}, ${M.percent(match.share)} of its top examples`,
      `logit effect ${M.number(match.activation)}`,
      `in ${M.percent(match.share)} of its top examples`][match.how];
    return el("li", {}, el("a", { href: M.link("feature", run.sweep, run.name, match.feature) },
      el("span", { class: "id" }, el("bdi", {}, M.visible(run.name)), `/${match.feature}`), name, best,
      el("span", { class: "why" }, why)));
  }
})();
