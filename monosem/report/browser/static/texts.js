"use strict";
/* The data view: texts in which every token can be asked which features are active on it.
   Address: texts.html#sweep/run[/text]. */

(() => {
  const { el } = M;

  M.view(async (parts, main, was) => {
    const run = M.findRun(parts);
    if (!run.texts) throw new Error(`${run.name} has no texts.`);
    const number = Number(parts[2] || 0);
    if (!Number.isInteger(number) || number < 0 || number >= run.texts) throw new Error(`${run.name} has texts 0 to ${run.texts - 1}.`);
    M.crumbs(["Start", "index.html"], [run.sweep, M.link("index", "sweep", run.sweep)], [run.name, M.link("run", run.sweep, run.name)], [`text ${number + 1}`]);
    const [overview, text] = await Promise.all([M.load(`${run.sweep}/${run.name}/texts`), M.load(`${run.sweep}/${run.name}/text-${number}`)]);
    const state = { run, text, token: null, feature: null };
    const reading = el("article", { class: "reading", tabindex: "0", "aria-label": "the text; arrow keys go from token to token" });
    const panel = el("aside", { class: "panel", "aria-live": "polite" });
    M.remembering = () => ({ token: state.token });
    main.append(M.tabs(run, "texts"),
      el("p", { class: "note" }, "Choose a token to see the features that are active on it: the longer a bar, the closer to the feature's own largest. ",
        "The text is shaded by how many features are active on a token, or by the feature that is pointed at."),
      el("div", { class: "dataview" },
        el("nav", { class: "textlist", "aria-label": "texts" }, el("ol", {}, overview.map(([domain, opening], n) =>
          el("li", {}, el("a", { href: M.link("texts", run.sweep, run.name, n), "aria-current": n === number ? "page" : null },
            run.domains[domain] ? el("span", { class: "kind" }, M.visible(run.domains[domain])) : null, el("bdi", { dir: "auto" }, M.visible(opening, 60))))))),
        reading, panel));
    const shown = M.joined(text.tokens.map((t) => text.texts[t]));
    const spans = shown.map((piece, j) => tokenSpan(state, piece, j, choose));
    reading.append(el("bdi", { class: "text", dir: M.direction(text.tokens.map((t) => text.texts[t])) }, spans));
    reading.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      choose(Math.max(0, Math.min(spans.length - 1, (state.token ?? -1) + move)));
      spans[state.token].scrollIntoView({ block: "nearest" });
    });

    function choose(at) {
      state.token = at;
      for (const [j, node] of spans.entries()) node.classList.toggle("at", j === at);
      showToken(state, panel, paint);
      paint(null);
    }

    /** Shade the whole text by one feature; by how many features are active on each token if null. */
    function paint(feature) {
      const most = Math.max(1, ...text.active.map((flat) => flat.length / 2));
      const full = feature === null ? most : text.names.find(([f]) => f === feature)[2];
      spans.forEach((node, j) => {
        const flat = text.active[j], at = feature === null ? -1 : M.pairs(flat).findIndex(([f]) => f === feature);
        const shade = feature === null ? 0.35 * flat.length / 2 / full : at < 0 ? 0 : flat[2 * at + 1] / full;
        node.classList.toggle("on", shade > 0 && feature !== null);
        node.classList.toggle("some", shade > 0 && feature === null);
        node.style.setProperty("--a", Math.min(1, shade).toFixed(3));
      });
    }
    paint(null);
    const busiest = text.active.reduce((best, flat, j) => (flat.length > text.active[best].length ? j : best), 0);
    if (spans.length) choose(was.token < spans.length ? was.token : busiest);
    M.keys({ n: () => go(run, number + 1), p: () => go(run, number - 1) });
  });

  function go(run, n) {
    if (n >= 0 && n < run.texts) location.hash = M.link("", run.sweep, run.name, n).split("#")[1];
  }

  function tokenSpan({ text }, piece, j, choose) {
    const node = M.span(piece, 0);
    node.addEventListener("click", () => choose(j));
    node.title = `${text.active[j].length / 2} features`;
    return node;
  }

  function showToken({ run, text, token }, panel, paint) {
    const active = M.pairs(text.active[token]);
    const names = new Map(text.names.map(([f, words, max]) => [f, { words, max }]));
    const loss = text.loss[token];
    panel.replaceChildren(
      el("h2", {}, M.word(text.texts[text.tokens[token]])),
      el("p", { class: "note" }, `token ${token + 1} of ${text.tokens.length}; ${active.length} features active` + (loss === null ? "" : `; loss ${M.number(loss)} nats`)),
      el("ol", { class: "active" }, active.map(([f, a]) => {
        const { words, max } = names.get(f);
        return el("li", { style: { "--share": Math.min(1, a / max).toFixed(3) }, onpointerenter: () => paint(f), onpointerleave: () => paint(null) },
          el("a", { href: M.link("feature", run.sweep, run.name, f), onfocus: () => paint(f), onblur: () => paint(null) },
            el("span", { class: "id" }, String(f)), " ", el("span", { class: "name" }, words.map((w) => M.word(w)))),
          el("span", { class: "n", title: `${M.percent(a / max)} of its largest` }, M.number(a)));
      })));
  }
})();
