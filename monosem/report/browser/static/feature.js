"use strict";
/* One feature: what it fires on, what it writes to the logits, which neurons and features are near it.
   Address: feature.html#sweep/run/feature. */

(() => {
  const { el } = M;
  const GROUPS = ["Top activations", ...Array.from({ length: 11 }, (_, k) => `Interval ${k + 1} of 11`), "Weakest activations"];

  M.view(async (parts, main) => {
    const run = M.findRun(parts);
    const i = Number(parts[2] ?? 0);
    if (!Number.isInteger(i) || i < 0 || i >= run.features) throw new Error(`${run.name} has features 0 to ${run.features - 1}.`);
    const per = M.site.featuresPerFile;
    const chunk = await M.load(`${run.sweep}/${run.name}/features-${Math.floor(i / per)}`);
    const row = await M.rowOf(run, i);
    const feature = chunk.features[i % per];
    M.crumbs(["Start", "index.html"], [run.sweep, M.link("index", "sweep", run.sweep)], [run.name, M.link("run", run.sweep, run.name)], [String(i)]);
    main.append(
      head(run, i, feature, row, await isMapped(run, i, feature)),
      el("div", { class: "panels" },
        el("div", { class: "side" }, neurons(run, feature), related(run, feature)),
        el("div", { class: "middle" }, activations(feature, run), logits(feature, chunk.texts)),
        el("div", { class: "wideside" }, groups(feature, chunk.texts, run))));
    M.keys({ ArrowLeft: () => go(run, -1), ArrowRight: () => go(run, 1), k: () => go(run, -1), j: () => go(run, 1) });
  });

  /** On or back from the feature of the address, which may be ahead of what is drawn. */
  function go(run, by) {
    const i = Number(M.route()[2] || 0) + by;
    location.hash = M.link("", run.sweep, run.name, (i + run.features) % run.features).split("#")[1];
  }

  /** Whether it is on the map of its run's hook point: of a dictionary that is too large for one some are. */
  async function isMapped(run, i, feature) {
    const map = M.mapOf(run);
    if (!map || !map.runs.includes(run.name) || feature.max === 0) return false;
    return map.part === null || M.numbers((await M.load(`${run.sweep}/${map.name}`)).feature, Uint32Array).includes(i);
  }

  function head(run, i, feature, row, mapped) {
    const step = (to, text, label) => el("a", { class: "step", "aria-label": label, href: M.link("feature", run.sweep, run.name, (to + run.features) % run.features) }, text);
    const removed = effectOfRemoval(feature);
    const neuron = run.kind === "neurons";
    const facts = [
      ["active on", `${M.percent(feature.density)} of tokens`, `${M.count(feature.n)} of ${M.count(run.tokens)} tokens`],
      ["largest activation", M.number(feature.max, 4)],
      ["mean where active", M.number(feature.mean)],
      ["importance", M.percent(feature.importance), "mean square of what it adds, as a share of the variance of the activations"],
      ...(removed === null ? [] : [["loss without it", `${removed > 0 ? "+" : ""}${M.number(removed)} nats`, "change of the loss on the tokens around each of its top examples, summed, if the feature is removed: their mean"]]),
      ...(neuron ? [] : [["encoder bias", M.number(feature.bias)], ["cos(encoder, decoder)", M.number(feature.encoderCosine)]]),
    ];
    const state = feature.max === 0 ? "dead" : feature.ultralow ? "ultralow density" : null;
    return el("header", { class: "head" },
      M.tabs(run, null),
      el("h1", {}, el("span", { class: "id" }, run.kind === "neurons" ? `Neuron ${i}` : `Feature ${i}`), " ", M.featureName(row)),
      el("p", { class: "kinds" }, M.kinds(row.kinds), state ? el("span", { class: "state" }, state) : null,
        mapped ? el("a", { href: M.link("map", run.sweep, run.name, i) }, "its place on the map") : null),
      el("div", { class: "steps" }, step(i - 1, "\u2190", "previous feature"), step(i + 1, "\u2192", "next feature"),
        el("span", { class: "hint" }, "keys \u2190 \u2192")),
      el("dl", { class: "facts" }, facts.map(([k, v, title]) => el("div", { title: title || null }, el("dt", {}, k), el("dd", {}, v)))));
  }

  /** Mean over the top examples of the summed change of loss, or null where none was measured. */
  function effectOfRemoval(feature) {
    const top = (feature.groups.find(([g]) => g === 0) || [0, []])[1].filter((example) => example[3]);
    if (!top.length) return null;
    return top.reduce((sum, [tokens, , , effects]) => sum + M.dense(effects, tokens.length).reduce((a, b) => a + b, 0), 0) / top.length;
  }

  function activations(feature, run) {
    if (!feature.acts) return M.section("Activations", "It was active on no token, so there is nothing to draw.");
    const tone = (x) => ({ class: "bar act", style: { "--a": Math.max(0.12, x / feature.max).toFixed(3) } });
    const sampled = feature.acts.counts.reduce((a, b) => a + b, 0);
    const of = sampled < feature.n ? `${M.count(sampled)} random tokens` : `all ${M.count(sampled)} tokens`;
    return M.section("Activations", `Density ${M.percent(feature.density)}. Of ${of} on which it is active.`,
      M.histogram("histogram of activations", feature.acts, { label: "activation", tone }),
      run.domains.length > 1 && feature.n ? domains(feature, run) : null);
  }

  function domains(feature, run) {
    const other = feature.n - feature.domains.reduce((sum, [, n]) => sum + n, 0);
    const bar = (n, ...name) => el("li", { style: { "--share": (n / feature.n).toFixed(4) } }, ...name, el("span", { class: "n" }, M.percent(n / feature.n)));
    return el("div", {}, el("h3", {}, "Where in the corpus"), el("p", { class: "note" }, "All tokens it is active on, weakly too."), el("ul", { class: "bars" },
      feature.domains.map(([d, n]) => bar(n, run.domains[d].trim() ? el("a", { href: M.link("index", "find", run.domains[d]) }, el("bdi", {}, M.visible(run.domains[d]))) : "no domain")),
      other > 0 ? bar(other, "other") : null));
  }

  function logits(feature, texts) {
    if (!feature.up.length) return M.section("Direct logit effects", "There are none at this hook point: it does not write to the residual stream alone.");
    const list = (title, flat, tone) => el("div", {}, el("h3", {}, title), el("ol", { class: `logits ${tone}` },
      M.pairs(flat).map(([t, v]) => el("li", {}, M.word(texts[t]), el("span", { class: "n" }, M.number(v))))));
    const tone = (x) => ({ class: x >= 0 ? "bar up" : "bar down" });
    return M.section("Direct logit effects", "What one unit of activation adds to each token's logit, less the median.",
      el("div", { class: "twins" }, list("Negative logits", feature.down, "down"), list("Positive logits", feature.up, "up")),
      feature.logits ? M.histogram("histogram of logit effects", feature.logits, { label: "effect over the vocabulary, counts logarithmic", tone, log: true }) : null);
  }

  function neurons(run, feature) {
    const to = (n) => M.site.runs.some((r) => r.sweep === run.sweep && r.name === run.neurons)
      ? el("a", { href: M.link("feature", run.sweep, run.neurons, n) }, String(n)) : String(n);
    const found = [], neuron = run.kind === "neurons", itself = Number(M.route()[2] || 0);
    if (feature.neurons && !neuron) {
      found.push(M.section("Neuron alignment", "The largest weights of its decoder vector.",
        M.table(["neuron", "weight", "% of L1"], feature.neurons.map(([n, w, , l1]) => [to(n), M.number(w), M.percent(l1)]))));
    }
    if (feature.correlated) {
      found.push(M.section("Correlated neurons", "Whose activations go with its own.",
        M.table(["neuron", "Pearson", "cosine"], feature.correlated.filter(([n]) => !neuron || n !== itself).map(([n, r, cos]) => [to(n), M.number(r), M.number(cos)]))));
    }
    return found;
  }

  function related(run, feature) {
    const runs = new Map();
    for (const entry of feature.related) {
      const key = `${entry[0]}/${entry[1]}`;
      runs.set(key, [...(runs.get(key) || []), entry]);
    }
    const here = (r) => r.hook === run.hook && (run.kind === "neurons" || r.point === run.point);
    const kindOf = (r) => {
      if (!r) return "Not on this site";
      if (r.sweep === run.sweep && r.kind === "neurons") return "Among neurons";
      if (r.host !== run.host) return "Other hosts";
      return !here(r) ? "Other hook points" : r.sweep === run.sweep ? "Other sizes" : "Other sweeps";
    };
    const sections = [
      ["Other sizes", "The same activations read by the other dictionaries of this sweep: a feature often splits in larger ones."],
      ["Other sweeps", "The same activations read by dictionaries of other sweeps."],
      ["Other hook points", "Features of dictionaries at other hook points of this model that are active on the same tokens."],
      ["Other hosts", "Features of dictionaries of another model that are active on the same tokens."],
      ["Among neurons", null],
      ["Not on this site", "Features of dictionaries that this site leaves out, active on the same tokens."]];
    return sections.map(([title, note]) => {
      const lists = [...runs.values()].filter(([[sweep, name]]) => kindOf(known(sweep, name)) === title);
      if (!lists.length || (title === "Among neurons" && feature.correlated)) return null;
      return M.section(title, note, lists.map((entries) => group(entries)));
    });
  }

  function known(sweep, name) {
    return M.site.runs.find((r) => r.sweep === sweep && r.name === name);
  }

  function group(entries) {
    const [sweep, name] = entries[0];
    const there = known(sweep, name);
    const called = there && there.sweep !== M.route()[0] ? `${sweep}/${name}` : name;
    return el("div", { class: "kin" }, el("h3", {}, el("bdi", {}, M.visible(called)), there ? ` \u00b7 ${M.count(there.features)}` : ""),
      el("ul", {}, entries.map(([, , f, r, cos, said]) => {
        const text = [el("span", { class: "id" }, `${f}`), " ", said.map((s) => M.word(s))];
        const figures = [r === null ? null : `r ${M.number(r, 2)}`, cos === null ? null : `cos ${M.number(cos, 2)}`].filter(Boolean).join(", ");
        return el("li", {}, there ? el("a", { href: M.link("feature", sweep, name, f) }, text) : el("span", {}, text), el("span", { class: "n" }, figures));
      })));
  }

  function groups(feature, texts, run) {
    const legend = el("p", { class: "legend" },
      M.span("activation", 0.8), " shaded by strength. Removing the feature would ", M.span("raise", 0, 1), " or ", M.span("lower", 0, -1),
      " the loss on the underlined token. In bold the token that an example is for; faint, where that is an example further up already. ",
      "Point at a token, or use the arrow keys in an example.");
    return el("section", {}, el("h2", {}, "Dataset examples"), feature.groups.length ? legend : null, el("div", { class: "groups" }, feature.groups.map(([g, list]) => {
      const largest = Math.max(...list.map((example) => M.dense(example[2], example[0].length)[example[1]]));
      return el("details", { open: true, class: g === 0 ? "top" : null },
        el("summary", {}, el("h3", {}, GROUPS[g]), el("span", { class: "n" }, `up to ${M.number(largest)}`)),
        M.examples(list, texts, feature.max, { domains: run.domains }));
    })));
  }
})();
