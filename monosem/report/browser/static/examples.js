"use strict";
/* Dataset examples: a window of tokens shaded by activation, underlined by what ablation does to the loss on them;
   and the names by which features go. An example as data: [tokens, centre, activations, effects, up, down, repeated,
   context, position, domain]; activations and effects sparse (place, value, place, value ...), tokens as places in
   the file's list of texts, up and down as (token, value, token, value ...). */

(() => {
  const { el } = M;
  const EFFECT_FULL = 1.5;   // nats at which an underline has its full strength
  const SEEN = new WeakMap();

  function dense(sparse, n) {
    const values = new Array(n).fill(0);
    for (let i = 0; sparse && i < sparse.length; i += 2) values[sparse[i]] = sparse[i + 1];
    return values;
  }

  function pairs(flat) {
    const found = [];
    for (let i = 0; flat && i < flat.length; i += 2) found.push([flat[i], flat[i + 1]]);
    return found;
  }

  /** One token of running text; shade 0..1, effect in nats. */
  function span(text, shade, effect = 0) {
    const strength = Math.min(1, Math.abs(effect) / EFFECT_FULL);
    const kind = strength < 0.02 ? "" : effect > 0 ? " helped" : " hurt";
    const style = {};
    if (shade > 0) style["--a"] = Math.max(0.06, Math.min(1, shade)).toFixed(3);
    if (kind) style["--u"] = (0.25 + 0.75 * strength).toFixed(3);
    const whole = text === "" ? " part" : /\\x[0-9a-f]{2}/.test(text) ? " raw" : "";
    return el("span", { class: `t${whole}${shade > 0 ? " on" : ""}${kind}`, style }, M.visible(text, 60));
  }

  /** Texts of tokens as running text: characters that tokens share the bytes of (written \\xNN) are put together; the
      token that completes one shows it, those before show nothing. */
  function joined(texts) {
    const shown = [];
    let decoder = null, open = 0;       // tokens at the end whose character is not complete
    const close = () => {
      for (let k = shown.length - open; k < shown.length; k++) shown[k] = texts[k];
      [decoder, open] = [null, 0];
    };
    for (const text of texts) {
      if (!/\\x[0-9a-f]{2}/.test(text)) {
        close();
        shown.push(text);
        continue;
      }
      decoder = decoder || new TextDecoder("utf-8");
      const piece = decoder.decode(bytesOf(text), { stream: true });
      shown.push(piece.includes("\ufffd") ? text : piece);
      open = piece === "" ? open + 1 : 0;
    }
    close();
    return shown;
  }

  function bytesOf(text) {
    const parts = text.split(/\\x([0-9a-f]{2})/);
    const encoder = new TextEncoder();
    return Uint8Array.from(parts.flatMap((part, k) => (k % 2 ? [parseInt(part, 16)] : [...encoder.encode(part)])));
  }

  const RIGHT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/g, LEFT = /\p{L}/gu;

  /** The direction most of the letters of some texts are written in. */
  function direction(texts) {
    const all = joined(texts).join("").replace(/\\x[0-9a-f]{2}/g, "");
    const right = (all.match(RIGHT) || []).length;
    return 2 * right > (all.match(LEFT) || []).length ? "rtl" : "ltr";
  }

  /** A line of text of an example: `full` is the activation of full shade. */
  M.snippet = (example, texts, full, dir = direction(example[0].map((t) => texts[t]))) => {
    const [tokens, centre, acts, effects] = example;
    const a = dense(acts, tokens.length), e = dense(effects, tokens.length);
    const shown = joined(tokens.map((t) => texts[t]));
    const spans = tokens.map((t, j) => {
      const node = span(shown[j], full > 0 ? a[j] / full : 0, e[j]);
      if (j === centre) node.classList.add("centre");
      return node;
    });
    return el("bdi", { class: "text", dir }, spans);
  };

  /** A list of examples with hover details; the arrow keys walk through the tokens of the one in focus. */
  M.examples = (list, texts, full, { domains = [] } = {}) => {
    const dir = direction(list.flatMap((example) => example[0].map((t) => texts[t])));
    const items = list.map((example) => {
      const line = M.snippet(example, texts, full, dir);
      const [, , , , , , repeated] = example;
      const item = el("li", { tabindex: "0", class: repeated ? "repeated" : null }, line);
      SEEN.set(item, { example, texts, domains, at: example[1] });
      return item;
    });
    const box = el("ol", { class: "examples" }, items);
    box.addEventListener("pointerover", (event) => note(event.target.closest(".t")));
    box.addEventListener("click", (event) => note(event.target.closest(".t")));
    box.addEventListener("pointerleave", M.hideTip);
    box.addEventListener("focusin", (event) => SEEN.has(event.target) && event.target.matches(":focus-visible") && step(event.target, 0));
    box.addEventListener("focusout", M.hideTip);
    box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !SEEN.has(event.target)) return;
      event.preventDefault();
      step(event.target, move);
    });
    return box;
  };

  function step(item, move) {
    const seen = SEEN.get(item);
    const spans = item.querySelectorAll(".t");
    seen.at = Math.max(0, Math.min(spans.length - 1, seen.at + move));
    note(spans[seen.at]);
  }

  function note(node) {
    if (!node) return;
    const item = node.closest("li");
    for (const old of item.parentNode.querySelectorAll(".at")) old.classList.remove("at");
    node.classList.add("at");
    const { example, texts, domains } = SEEN.get(item);
    const [tokens, centre, acts, effects, up, down, repeated, context, position, domain] = example;
    const j = [...item.querySelectorAll(".t")].indexOf(node);
    const rows = [["activation", M.number(dense(acts, tokens.length)[j], 4)]];
    if (effects) rows.push(["loss on this token without the feature", signed(dense(effects, tokens.length)[j], " nats")]);
    if (context >= 0) rows.push(["place", `token ${M.count(position - centre + j)} of context ${M.count(context)}`]);
    if (domains[domain]) rows.push(["domain", el("bdi", {}, M.visible(domains[domain]))]);
    const changes = j === centre && up ? el("div", { class: "changes" },
      changed("ablation raises", up, texts), changed("ablation lowers", down, texts)) : null;
    M.showTip(node, [
      el("p", { class: "what" }, M.word(texts[tokens[j]])),
      el("dl", {}, rows.map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
      changes,
      repeated ? el("p", { class: "note" }, "The same token was an example above already.") : null,
    ].filter(Boolean));
  }

  function changed(title, flat, texts) {
    return el("div", {}, el("h4", {}, title), el("ul", {}, pairs(flat).map(([t, v]) =>
      el("li", {}, M.word(texts[t]), el("span", { class: "n" }, signed(v))))));
  }

  function signed(x, unit = "") {
    return `${x > 0 ? "+" : ""}${M.number(x)}${unit}`;
  }

  /** What a feature goes by: its single-token label, or the tokens it is strongest on. `row` as in rows-N. */
  M.featureName = (row) => {
    if (row.label !== null) return el("span", { class: "name" }, "always ", M.word(row.label));
    if (!row.tops.length) return el("span", { class: "name none" }, "dead: never active");
    return el("span", { class: "name" }, row.tops.slice(0, 4).map(([text]) => M.word(text)));
  };

  M.kinds = (names) => names.map((name) => el("a", { class: "kind", href: M.link("index", "find", name) }, el("bdi", {}, M.visible(name))));

  /** The row of a feature (names, tokens, its strongest example) from the chunk it is in. */
  M.rowOf = async (run, feature) => {
    const chunk = await M.load(`${run.sweep}/${run.name}/rows-${Math.floor(feature / M.site.rowsPerFile)}`);
    return M.openRow(chunk, feature % M.site.rowsPerFile);
  };

  M.openRow = (chunk, i) => {
    const [label, tops, up, down, kinds, best] = chunk.rows[i];
    const named = (flat) => pairs(flat).map(([t, v]) => [chunk.texts[t], v]);
    return { label: label === null ? null : chunk.texts[label], tops: named(tops), up: named(up), down: named(down),
      kinds: kinds.map((k) => M.site.kinds[k]), best, texts: chunk.texts };
  };

  M.direction = direction;
  M.joined = joined;
  M.pairs = pairs;
  M.span = span;
  M.dense = dense;
})();
