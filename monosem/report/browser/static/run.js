"use strict";
/* The index of a run: all features in a list that is drawn only where it is looked at, sorted, filtered and
   searched. Address: run.html#sweep/run[/order[/words[/mode[/where[/shown]]]]]; order: "random-SEED" among others;
   shown: "dead" if dead ones are listed too, and the lower end (log10) of a bar of densities, with a comma between. */

(() => {
  const { el } = M;
  const HEIGHT = 58;          // of a row in pixels; the style sheet says so too
  const BARS = 4;             // of densities, to a power of ten
  const LONGEST = 250000;     // rows of a list: browsers draw nothing below some fifteen million pixels
  const ORDERS = [["density", "most often active"], ["importance", "most important"], ["max", "largest activation"],
    ["index", "number"], ["rare", "least often active"], ["random", "random"], ["map", "likeness (1-D map)"]];
  const MODES = [["text", "text, any case"], ["regexi", "regular expression, any case"], ["regex", "regular expression, case-sensitive"]];

  M.view(async (parts, main, was) => {
    const run = M.findRun(parts);
    M.crumbs(["Start", "index.html"], [run.sweep, M.link("index", "sweep", run.sweep)], [run.name]);
    const raw = await M.load(`${run.sweep}/${run.name}/index`);
    const columns = { density: M.numbers(raw.density), max: M.numbers(raw.max), importance: M.numbers(raw.importance),
      ultralow: M.numbers(raw.ultralow, Uint8Array), order: raw.order ? M.numbers(raw.order, Uint32Array) : null };
    const state = { run, columns, ...readOrder(parts[2] || "density"), words: parts[3] || "", mode: parts[4] || "text", where: parts[5] || "all",
      ...readShown(parts[6] || ""), hits: null, search: 0 };
    M.remembering = () => ({ at: list.box.scrollTop });
    const list = makeList(state);
    main.append(top(run), controls(state, list), list.said, list.box);
    if (state.order === "random") readdress(state);     // with its seed
    if (state.words) await search(state, list);
    else list.refresh();
    requestAnimationFrame(() => { list.box.scrollTop = was.at || 0; });
  });

  /** The order, and what makes a random one the same for who comes back. */
  function readOrder(text) {
    const [, seed] = text.match(/^random-(\d{1,9})$/) || [];
    return { order: text.startsWith("random") ? "random" : text, seed: Number(seed ?? Math.floor(Math.random() * 1e9)) };
  }

  function readShown(text) {
    const parts = text.split(","), end = parts.find((part) => /^-\d+(\.\d+)?$/.test(part));
    return { alive: !parts.includes("dead"), bar: end === undefined ? null : Math.round(Number(end) * BARS) };
  }

  function readdress({ run, order, seed, words, mode, where, alive, bar }) {
    const shown = [...(alive ? [] : ["dead"]), ...(bar === null ? [] : [String(bar / BARS)])].join(",");
    M.readdress("run", run.sweep, run.name, order === "random" ? `random-${seed}` : order, ...(words || shown ? [words, mode, where] : []), ...(shown ? [shown] : []));
  }

  /** The bar that a density above 0 is in: from bar / BARS to (bar + 1) / BARS, log10; 1 is in the last one. */
  function barOf(density) {
    return Math.min(-1, Math.floor(Math.log10(density) * BARS));
  }

  function ends(bar) {
    return `${M.percent(10 ** (bar / BARS))} to ${M.percent(10 ** ((bar + 1) / BARS))} of tokens`;
  }

  function top(run) {
    const facts = [["features", M.count(run.features)], ["L0", M.number(run.l0)], ["FVU", M.number(run.fvu)],
      ["loss recovered", M.number(run.recovered)], ["tokens looked at", M.count(run.tokens)], ["dead on them", M.count(run.dead)],
      ...(run.ultralow === null ? [] : [["ultralow", M.count(run.ultralow)]])];
    return el("header", { class: "head" }, M.tabs(run, "run"), el("h1", {}, el("bdi", {}, M.visible(run.name))),
      el("dl", { class: "facts" }, facts.filter(([, v]) => v !== "\u2013").map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v)))));
  }

  // -- order and filter ------------------------------------------------------------------------

  function chosen({ columns, order, seed, alive, bar, hits, run }) {
    const keep = [];
    for (let i = 0; i < run.features; i++) {
      if (alive && columns.density[i] === 0) continue;
      if (bar !== null && !(columns.density[i] > 0 && barOf(columns.density[i]) === bar)) continue;
      if (hits && !hits.has(i)) continue;
      keep.push(i);
    }
    if (order === "index") return keep;
    if (order === "random") return shuffled(keep, seed);
    const by = order === "rare" ? columns.density.map((x) => -x) : order === "map" && columns.order
      ? columns.order.map((x) => 0xffffffff - x) : columns[order] || columns.density;
    return keep.sort((a, b) => by[b] - by[a] || a - b);
  }

  /** In an order that the seed decides (numbers of mulberry32). */
  function shuffled(list, seed) {
    let state = seed;
    const random = () => {
      state = (state + 0x6d2b79f5) | 0;
      let x = Math.imul(state ^ (state >>> 15), state | 1);
      x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
      return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
    };
    for (let i = list.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [list[i], list[j]] = [list[j], list[i]];
    }
    return list;
  }

  function controls(state, list) {
    const select = (label, choices, now, set) => el("label", {}, el("span", {}, label), el("select", {
      onchange: (event) => { set(event.target.value); },
    }, choices.map(([value, text]) => el("option", { value, selected: value === now }, text))));
    const orders = ORDERS.filter(([name]) => name !== "map" || state.columns.order);
    const field = el("input", { type: "search", name: "words", value: state.words, placeholder: "e.g. river", autocomplete: "off", spellcheck: "false" });
    const again = () => {
      state.words = field.value;
      readdress(state);
      search(state, list);
    };
    const form = el("form", { class: "controls", role: "search", "aria-label": "features of this run", onsubmit: (event) => {
      event.preventDefault();
      again();
    } },
      el("label", { class: "grow" }, el("span", {}, "Search"), field),
      select("as", MODES, state.mode, (v) => { state.mode = v; again(); }),
      select("in", [["all", "everything"], ["tops", "tokens it fires on"], ["up", "positive logits"], ["best", "strongest example"]], state.where,
        (v) => { state.where = v; again(); }),
      el("button", { type: "submit" }, "Search"),
      select("Order", orders, state.order, (v) => { state.order = v; readdress(state); list.refresh(); }),
      el("label", { class: "check" }, el("input", { type: "checkbox", checked: !state.alive, onchange: (event) => {
        state.alive = !event.target.checked;
        readdress(state);
        list.refresh();
      } }), el("span", {}, "dead ones too")));
    return el("div", { class: "finder" }, form, densities(state, list));
  }

  function densities(state, list) {
    const bars = Array.from(state.columns.density).filter((x) => x > 0).map(barOf);
    if (!bars.length) return null;
    const first = bars.reduce((a, b) => Math.min(a, b));
    const counts = new Array(-first).fill(0);
    for (const bar of bars) counts[bar - first]++;
    const pick = (i) => {
      state.bar = state.bar === first + i ? null : first + i;
      readdress(state);
      list.refresh();
      return state.bar !== null;
    };
    const form = (v) => (v === 0 ? "100 %" : M.percent(10 ** v));
    const tell = (n, a) => `${M.count(n)} features active on ${ends(Math.round(a * BARS))}`;
    const shape = { counts, lo: first / BARS, hi: 0 }, picked = state.bar === null ? -1 : state.bar - first;
    return el("figure", { class: "densities" }, M.histogram("features by density", shape,
      { label: "density; choose a bar to see its features", form, pick, picked, tell, height: 110, width: 420 }));
  }

  async function search(state, list) {
    const turn = ++state.search;
    if (!state.words) {
      state.hits = null;
      return list.refresh();
    }
    let matches;
    try {
      matches = matcher(state.words, state.mode);
    } catch (error) {
      state.hits = new Set();
      return list.refresh(`This is no regular expression: ${M.visible(error.message, 200)}`);
    }
    const hits = new Set(), { run } = state, per = M.site.rowsPerFile;
    for (let k = 0; k * per < run.features; k++) {
      const chunk = await M.load(`${run.sweep}/${run.name}/rows-${k}`);
      if (turn !== state.search) return;
      const fits = chunk.texts.map(matches);
      chunk.rows.forEach((row, i) => {
        if (rowFits(row, chunk.texts, fits, matches, state.where)) hits.add(k * per + i);
      });
      state.hits = hits;
      if (k % 8 === 7) list.refresh(`searched ${M.count((k + 1) * per)} of ${M.count(run.features)} ...`);
    }
    state.hits = hits;
    const meant = !hits.size && state.mode === "text" && /[\^$*+?()[\]|\\]/.test(state.words);
    list.refresh(meant ? "No feature has this text. If it is a regular expression, choose that beside the search." : undefined);
  }

  function matcher(words, mode) {
    if (mode === "regex" || mode === "regexi") {
      const pattern = new RegExp(words, mode === "regexi" ? "iu" : "u");
      return (text) => pattern.test(text);
    }
    const low = words.normalize("NFKC").toLowerCase();
    return (text) => text.normalize("NFKC").toLowerCase().includes(low);
  }

  function rowFits([label, tops, up, , kinds, best], texts, fits, matches, where) {
    if ((where === "all" || where === "tops") && (M.pairs(tops).some(([t]) => fits[t]) || (label !== null && fits[label]))) return true;
    if ((where === "all" || where === "up") && M.pairs(up).some(([t]) => fits[t])) return true;
    if (where === "all" && kinds.some((k) => matches(M.site.kinds[k]))) return true;
    if (best === null || (where !== "all" && where !== "best")) return false;
    const parts = best[0].map((t) => texts[t]);       // as tokens, and as the page shows them: bytes of a letter joined
    return matches(parts.join("")) || matches(M.joined(parts).join(""));
  }

  // -- the list --------------------------------------------------------------------------------

  function makeList(state) {
    const said = el("p", { class: "said", role: "status" });
    const inner = el("ul", { class: "rows" });
    const box = el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "features" }, inner);
    let shown = [], drawn = new Map();

    function draw() {
      const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 6);
      const last = Math.min(shown.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 6);
      const now = new Map();
      for (let place = first; place < last; place++) {
        const node = drawn.get(place) || makeRow(state, shown[place], place, shown.length);
        now.set(place, node);
      }
      for (const [place, node] of drawn) if (!now.has(place)) node.remove();
      for (const [place, node] of now) if (!drawn.has(place)) inner.append(node);
      drawn = now;
    }

    function refresh(note) {
      const all = chosen(state);
      shown = all.slice(0, LONGEST);
      drawn.clear();
      inner.replaceChildren();
      inner.style.height = `${shown.length * HEIGHT}px`;
      const band = state.bar === null ? "" : `, active on ${ends(state.bar)}`;
      const cut = all.length > LONGEST ? `; the first ${M.count(LONGEST)} are listed` : "";
      say(note || `${M.count(all.length)} of ${M.count(state.run.features)} features${band}${cut}`);
      box.scrollTop = 0;
      draw();
      requestAnimationFrame(draw);
    }

    function say(text) {
      const [, number] = state.words.trim().match(/^#?(\d+)$/) || [], run = state.run;
      const jump = number !== undefined && Number(number) < run.features
        ? [el("a", { href: M.link("feature", run.sweep, run.name, Number(number)) }, `Feature ${Number(number)}`), ", or what has this text: "] : [];
      said.replaceChildren(...jump, text);
    }
    box.addEventListener("scroll", draw, { passive: true });
    window.addEventListener("resize", draw);
    M.keys({
      j: () => { box.scrollTop += HEIGHT; },
      k: () => { box.scrollTop -= HEIGHT; },
      Enter: () => shown.length && M.go(M.link("feature", state.run.sweep, state.run.name, shown[Math.floor(box.scrollTop / HEIGHT)])),
    });
    return { box, said, refresh, say };
  }

  function makeRow(state, i, place, total) {
    const { run, columns } = state;
    const name = el("span", { class: "name" }, "\u2026"), best = el("span", { class: "best" }), logits = el("span", { class: "ups" });
    const item = el("li", { style: { top: `${place * HEIGHT}px` }, "aria-setsize": total, "aria-posinset": place + 1 },
      el("a", { href: M.link("feature", run.sweep, run.name, i) },
        el("span", { class: "id" }, String(i)), name, best, logits,
        el("span", { class: "n density", title: "density" }, M.percent(columns.density[i])),
        el("span", { class: "n max", title: "largest activation" }, M.number(columns.max[i])),
        el("span", { class: "n imp", title: "importance" }, M.percent(columns.importance[i]))));
    M.rowOf(run, i).then((row) => {
      name.replaceChildren(M.featureName(row), row.kinds.slice(0, 2).map((k) => el("span", { class: "kind" }, M.visible(k))).reduce((a, b) => (a.append(b), a), document.createDocumentFragment()));
      if (row.best) best.replaceChildren(M.snippet(row.best, row.texts, columns.max[i]));
      logits.replaceChildren(...row.up.slice(0, 4).map(([text]) => M.word(text)));
    }, (error) => { name.textContent = M.visible(error.message); });
    return item;
  }
})();
