"use strict";
/* The start page: search, the kinds of features there are, and of each sweep its fronts, densities, curves and runs.
   Addresses: index.html, #sweep/NAME, #find/WORDS. */

(() => {
  const { el } = M;

  M.view(async (parts, main, was) => {
    if (parts[0] === "find" && parts[1]) {
      const words = parts.slice(1).join("/");
      M.crumbs(["Start", "index.html"], [`find ${words}`]);
      document.getElementById("find").elements.q.value = words;
      return M.results(words, main, was);
    }
    const sweeps = parts[0] === "sweep" ? M.site.sweeps.filter((s) => s.name === parts[1]) : M.site.sweeps;
    if (parts[0] === "sweep") M.crumbs(["Start", "index.html"], [parts[1]]);
    else M.crumbs(["Start"]);
    if (!sweeps.length) throw new Error("There is no sweep of this name here.");
    if (parts[0] !== "sweep") main.append(welcome());
    main.append(...sweeps.map(sweepPart));
  });

  function welcome() {
    const field = el("input", { type: "search", name: "q", placeholder: "a word, a token, a kind of text ...", "aria-label": "find features",
      autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const form = el("form", { class: "big", role: "search", onsubmit: (event) => {
      event.preventDefault();
      if (field.value.trim()) location.hash = `find/${encodeURIComponent(field.value.trim())}`;
    } }, field, el("button", { type: "submit" }, "Find"));
    const open = M.site.runs.filter((r) => r.open && r.kind !== "neurons");
    const total = open.reduce((sum, r) => sum + r.features, 0);
    return el("header", { class: "welcome" }, el("h1", {}, "What do the features mean?"),
      el("p", {}, `${M.count(total)} features of ${open.length} ${open.length === 1 ? "dictionary" : "dictionaries"}. `,
        "Type a word to see which of them are active on it, strongest first; or choose a kind of text."),
      form, chips("Kinds of text", M.site.search.kinds), chips("Domains of the corpus", M.site.search.domains));
  }

  function chips(title, list) {
    if (!list || !list.length) return null;
    return el("div", { class: "chips" }, el("h2", {}, title), el("ul", {}, list.map(([name, n]) =>
      el("li", {}, el("a", { class: "kind", href: M.link("index", "find", name), title: `${M.count(n)} features` },
        el("bdi", {}, M.visible(name)), el("span", { class: "n" }, M.count(n)))))));
  }

  function sweepPart(sweep) {
    const runs = M.site.runs.filter((r) => r.sweep === sweep.name);
    const trained = runs.filter((r) => r.kind !== "neurons" && r.l0 !== null);
    return el("section", { class: "sweep" },
      el("h1", {}, el("a", { href: M.link("index", "sweep", sweep.name) }, el("bdi", {}, M.visible(sweep.name)))),
      el("p", { class: "note" }, "Sparse autoencoders on ", el("b", {}, M.word(sweep.hook)), " of ", el("b", {}, M.word(sweep.host)),
        sweep.rows === null ? "." : `, trained on the same ${M.count(sweep.rows)} rows.`,
        maps(sweep)),
      table(sweep, runs),
      el("p", { class: "note" }, "L0, FVU and loss recovered are of held-out text. Dead: active on none of the tokens looked at for these pages; ",
        "the sweep's own table counts those not active on its held-out text."),
      trained.length ? plots(trained) : null);
  }

  /** Links to the sweep's maps, one for each hook point. */
  function maps(sweep) {
    if (sweep.maps.length < 2) return sweep.maps.map(() => [" ", el("a", { href: M.link("map", sweep.name) }, "Map of all features")]);
    return [" Maps of all features: ", sweep.maps.map((map, i) =>
      [i ? ", " : "", el("a", { href: M.link("map", sweep.name, map.runs[0]) }, M.word(map.point))]), "."];
  }

  function plots(runs) {
    const points = (key) => runs.filter((r) => r[key] !== null).map((r) => ({ x: r.l0, y: r[key], name: r.name, colour: r.colour, group: r.point,
      front: r.front.includes(key), href: r.open ? M.link("run", r.sweep, r.name) : null }));
    const figure = (title, note, drawn) => el("figure", {}, el("h2", {}, title), drawn, el("figcaption", {}, note));
    const curves = runs.filter((r) => r.curve.length > 1).map((r) => ({ ...r, key: r.name, points: r.curve }));
    const histograms = runs.filter((r) => r.histogram).map((r) => ({ ...r, key: r.name, edges: r.histogram.edges, counts: r.histogram.counts }));
    const lowest = Math.min(...histograms.map((h) => h.edges[h.counts.findIndex((n) => n > 0)] ?? -6));
    const form = (v) => (v === 0 ? "1" : `10${String(v).replace("-", "\u207b").replace(/\d/g, (d) => "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[d])}`);
    return el("div", { class: "plots" },
      figure("Sparsity against what is recovered", "Further left and higher is better.", M.scatter("L0 against loss recovered", points("recovered"), { xlabel: "L0: active features per token", ylabel: "loss recovered" })),
      figure("Sparsity against what is left unexplained", "Further left and lower is better.", M.scatter("L0 against FVU", points("fvu"), { xlabel: "L0: active features per token", ylabel: "FVU", ylo: 0 })),
      histograms.length ? figure("How often features are active", "A second hump on the left is the ultralow-density cluster.",
        el("div", {}, key(histograms), M.outlines("histogram of feature densities", histograms, { label: "share of tokens (log10)", lo: Math.max(-8, lowest), hi: 0, form, ylabel: "features" }))) : null,
      curves.length ? figure("Training", "FVU of the batch against rows seen.",
        el("div", {}, key(curves), M.lines("training curves", curves, { xlabel: "million rows", ylabel: "FVU" }))) : null);
  }

  /** The colours of the runs; pointing at one fades the others. */
  function key(series) {
    const fade = (name) => (event) => {
      for (const line of event.target.closest("figure").querySelectorAll("[data-run]")) line.classList.toggle("faded", name !== null && line.dataset.run !== name);
    };
    return el("ul", { class: "key" }, series.map((s) => el("li", { onpointerenter: fade(s.name), onpointerleave: fade(null) },
      el("span", { class: `swatch c${s.colour}` }), el("bdi", {}, M.visible(s.name, 40)))));
  }

  function table(sweep, runs) {
    const several = new Set(M.site.runs.filter((r) => r.kind !== "neurons").map(M.hookOf)).size > 1;
    const heads = ["run", "features", ...(several ? ["hook point"] : []), "kind", "L0", "FVU", "loss recovered", "dead", "tokens looked at", ""];
    return M.table(heads, runs.map((r) => [
      r.open ? el("a", { href: M.link("run", r.sweep, r.name) }, el("bdi", {}, M.visible(r.name))) : el("bdi", {}, M.visible(r.name)),
      M.count(r.features), ...(several ? [M.word(M.hookOf(r))] : []), el("bdi", {}, M.visible(r.asked ? `${r.variant}, ${r.asked}` : r.variant)), M.number(r.l0), M.number(r.fvu), M.number(r.recovered),
      r.dead === null ? "\u2013" : M.percent(r.dead / r.features), r.tokens ? M.count(r.tokens) : "\u2013",
      r.open ? [["run", "features"], ...(r.texts ? [["texts", "texts"]] : []), ...(r.kind === "neurons" ? [] : [["rubric", "rubric"]])].map(([page, text]) =>
        el("a", { class: "view", href: M.link(page, r.sweep, r.name), "aria-label": `${text} of ${M.visible(r.name)}` }, text)) : "no feature pass yet",
    ]), { class: several ? "runs places" : "runs" });
  }
})();
