"use strict";
/* The map: features of several dictionaries at one place each (UMAP of decoder vectors), with clusters (HDBSCAN).
   Drag, wheel, pinch or + - and arrows move it; pointing names a feature, a click opens it. Address: map.html#sweep[/run[/feature]];
   each hook point has a map, the run says which. */

(() => {
  const { el } = M;
  const LISTED = 100;         // members of a cluster that are listed
  const FARTHEST = 0.5, NEAREST = 400;      // of the scale at which everything is in view

  M.view(async (parts, main, was) => {
    const sweep = parts[0] ? M.site.sweeps.find((s) => s.name === parts[0]) : M.site.sweeps.find((s) => s.maps.length);
    if (!sweep || !sweep.maps.length) throw new Error(parts[0] ? `There is no map of ${parts[0]} here.` : "There is no map here.");
    M.crumbs(["Start", "index.html"], [sweep.name, M.link("index", "sweep", sweep.name)], ["map"]);
    const named = parts[1] === undefined ? null : M.findRun(parts), one = named ? M.mapOf(named) : sweep.maps[0];
    if (!one) throw new Error(`There is no map of ${named.name} here.`);
    const raw = await M.load(`${sweep.name}/${one.name}`);
    const map = { sweep, ...raw, x: M.numbers(raw.x), y: M.numbers(raw.y), run: M.numbers(raw.run, Uint16Array), feature: M.numbers(raw.feature, Uint32Array), cluster: M.numbers(raw.cluster, Int32Array) };
    const chosen = new Set(map.runs.map((_, i) => i));
    const canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": `map of ${M.count(map.x.length)} features; the clusters are listed beside it` });
    const view = makeView(map, canvas, chosen);
    const legend = el("ul", { class: "key" }, map.runs.map((r, i) => el("li", {}, el("label", {},
      el("input", { type: "checkbox", checked: true, onchange: (event) => {
        if (event.target.checked) chosen.add(i);
        else chosen.delete(i);
        view.draw();
      } }), el("span", { class: `swatch c${M.site.runs[r].colour}` }), el("bdi", {}, M.visible(M.site.runs[r].name))))));
    const button = (text, label, act) => el("button", { type: "button", "aria-label": label, onclick: act }, text);
    main.append(el("header", { class: "head" }, el("h1", {}, "Map of ", el("bdi", {}, M.visible(sweep.name))), choice(sweep, one),
      el("p", { class: "note" }, `Features whose decoder vectors point the same way lie together: UMAP of ${M.count(map.x.length)} features by cosine; clusters by HDBSCAN on ten dimensions. Dead features are left out. Choose a cluster to see its members.`,
        map.part === null ? "" : ` Of ${M.visible(M.site.runs[map.runs[0]].name)}, which is too large for one, its ${M.count(map.part)} most important features.`,
        map.left.length ? ` Not on it, being too large: ${map.left.map((name) => M.visible(name)).join(", ")}.` : "")),
      el("div", { class: "mapview" },
        el("div", { class: "mapbox" }, canvas, el("div", { class: "zoom" }, button("+", "nearer", () => view.zoom(1.5)), button("\u2212", "farther", () => view.zoom(1 / 1.5)), button("\u2922", "everything", view.all)), legend),
        el("nav", { class: "clusters", "aria-label": "clusters" }, el("h2", {}, `${M.count(map.clusters.length)} clusters`),
          el("ol", {}, bySize(map).map((c) => clusterItem(map, view, c))))));
    M.remembering = view.now;
    requestAnimationFrame(() => {
      view.fit();
      if (was.scale) view.again(was);
      const held = was.held === null || was.held === undefined ? null : main.querySelector(`.clusters [data-cluster="${Number(was.held)}"]`);
      if (held) {
        held.click();
        view.again(was);
      }
      const run = map.runs.findIndex((r) => M.site.runs[r].name === parts[1]);
      if (run >= 0 && parts[2] !== undefined) view.find(run, Number(parts[2]), !was.scale);
    });
    M.keys({ "+": () => view.zoom(1.4), "=": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4), 0: view.all,
      ArrowLeft: () => view.pan(60, 0), ArrowRight: () => view.pan(-60, 0), ArrowUp: () => view.pan(0, 60), ArrowDown: () => view.pan(0, -60) });
  });

  /** Which of the sweep's maps, where there are several. */
  function choice(sweep, one) {
    if (sweep.maps.length === 1) return null;
    return el("nav", { class: "tabs", "aria-label": "hook points" }, sweep.maps.map((map) =>
      el("a", { href: M.link("map", sweep.name, map.runs[0]), "aria-current": map === one ? "page" : null }, M.word(map.point))));
  }

  function bySize(map) {
    return [...map.clusters.keys()].sort((a, b) => map.clusters[b][1] - map.clusters[a][1] || a - b);
  }

  /** A cluster in the list: choosing it lights it up, for as long as it is chosen, and lists its members. */
  function clusterItem(map, view, c) {
    const [words, size] = map.clusters[c];
    const members = el("ul", { class: "members", hidden: true });
    const toggle = () => {
      const opening = button.getAttribute("aria-expanded") !== "true";
      for (const other of button.closest("ol").querySelectorAll("[aria-expanded=true]")) {
        other.setAttribute("aria-expanded", "false");
        other.nextSibling.hidden = true;
      }
      button.setAttribute("aria-expanded", String(opening));
      members.hidden = !opening;
      if (opening && !members.children.length) members.append(...memberLinks(map, c));
      view.hold(opening ? c : null);
    };
    const button = el("button", { type: "button", "aria-expanded": "false", "data-cluster": c, onclick: toggle, onpointerenter: () => view.light(c), onpointerleave: () => view.light(null) },
      el("span", { class: "name" }, words.map((w) => M.word(w))), el("span", { class: "n" }, M.count(size)));
    return el("li", {}, button, members);
  }

  function memberLinks(map, c) {
    const own = [...map.cluster.keys()].filter((i) => map.cluster[i] === c);
    const items = own.slice(0, LISTED).map((i) => {
      const run = M.site.runs[map.runs[map.run[i]]], feature = map.feature[i], name = el("span", {}, "\u2026");
      M.rowOf(run, feature).then((row) => name.replaceChildren(M.featureName(row)), (error) => { name.textContent = M.visible(error.message); });
      return el("li", {}, el("a", { href: M.link("feature", run.sweep, run.name, feature) }, el("span", { class: "id" }, el("bdi", {}, M.visible(run.name)), `/${feature}`), " ", name));
    });
    return own.length > LISTED ? [...items, el("li", { class: "note" }, `and ${M.count(own.length - LISTED)} more`)] : items;
  }

  function bounds(map, members) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const i of members) {
      x0 = Math.min(x0, map.x[i]); x1 = Math.max(x1, map.x[i]);
      y0 = Math.min(y0, map.y[i]); y1 = Math.max(y1, map.y[i]);
    }
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: Math.max(x1 - x0, 0.2), height: Math.max(y1 - y0, 0.2) };
  }

  function makeView(map, canvas, chosen) {
    const all = [...map.x.keys()];
    const at = { x: 0, y: 0, scale: 1 };
    let lit = null, held = null, marked = null, frame = 0, whole = 1;
    const edge = bounds(map, all);

    function look(members, share = 0.9) {
      const b = bounds(map, members);
      Object.assign(at, { x: b.x, y: b.y, scale: share * Math.min(canvas.clientWidth / b.width, canvas.clientHeight / b.height) });
      draw();
    }
    function fit() {
      const dots = window.devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * dots;
      canvas.height = canvas.clientHeight * dots;
      whole = 0.9 * Math.min(canvas.clientWidth / edge.width, canvas.clientHeight / edge.height);
      if (at.scale === 1) look(all);
      else draw();
    }
    /** A colour of the style sheet as it is in the present theme. */
    function colour(name) {
      canvas.style.color = `var(${name})`;
      return getComputedStyle(canvas).color;
    }
    const toScreen = (i) => [canvas.clientWidth / 2 + (map.x[i] - at.x) * at.scale, canvas.clientHeight / 2 - (map.y[i] - at.y) * at.scale];

    function draw() {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(paint);
    }
    function paint() {
      const dots = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
      const inks = map.runs.map((r) => colour(`--c${M.site.runs[r].colour}`));
      pen.setTransform(dots, 0, 0, dots, 0, 0);
      pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
      const radius = Math.max(1.4, Math.min(6, 1.1 + at.scale / 90));
      for (const i of all) {
        if (!chosen.has(map.run[i])) continue;
        const [x, y] = toScreen(i);
        if (x < -9 || y < -9 || x > canvas.clientWidth + 9 || y > canvas.clientHeight + 9) continue;
        pen.globalAlpha = lit !== null ? (map.cluster[i] === lit ? 1 : 0.08) : map.cluster[i] < 0 ? 0.4 : 0.8;
        pen.fillStyle = inks[map.run[i]];
        pen.beginPath();
        pen.arc(x, y, i === marked ? radius + 3 : radius, 0, 7);
        pen.fill();
      }
      pen.globalAlpha = 1;
      names(pen);
    }
    /** Names of clusters where there is room for them. */
    function names(pen) {
      pen.font = "12px system-ui, sans-serif";
      pen.textAlign = "center";
      const taken = [];
      map.clusters.forEach(([words, , cx, cy], c) => {
        const x = canvas.clientWidth / 2 + (cx - at.x) * at.scale, y = canvas.clientHeight / 2 - (cy - at.y) * at.scale;
        if (x < 0 || y < 8 || x > canvas.clientWidth || y > canvas.clientHeight || (lit !== null && lit !== c)) return;
        const text = words.slice(0, 3).map((w) => `\u2068${M.visible(w, 14).trim() || "\u2423"}\u2069`).join("  ");
        const wide = pen.measureText(text).width / 2 + 8;
        if (taken.some(([a, b, w]) => Math.abs(a - x) < w + wide && Math.abs(b - y) < 17)) return;
        taken.push([x, y, wide]);
        pen.lineWidth = 3;
        pen.strokeStyle = colour("--page");
        pen.fillStyle = colour("--ink");
        pen.strokeText(text, x, y - 7);
        pen.fillText(text, x, y - 7);
      });
    }

    function nearest(px, py) {
      let best = null, least = 144;
      for (const i of all) {
        if (!chosen.has(map.run[i])) continue;
        const [x, y] = toScreen(i), d = (x - px) ** 2 + (y - py) ** 2;
        if (d < least) [best, least] = [i, d];
      }
      return best;
    }
    function zoom(wanted, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
      const by = Math.min(NEAREST * whole, Math.max(FARTHEST * whole, at.scale * wanted)) / at.scale;
      const dx = (px - canvas.clientWidth / 2) / at.scale, dy = (canvas.clientHeight / 2 - py) / at.scale;
      at.x += dx - dx / by;
      at.y += dy - dy / by;
      at.scale *= by;
      unname();
      draw();
    }
    /** What was named is elsewhere now. */
    function unname() {
      marked = null;
      M.hideTip();
    }
    function pan(dx, dy) {
      at.x = Math.min(edge.x + edge.width / 2, Math.max(edge.x - edge.width / 2, at.x - dx / at.scale));
      at.y = Math.min(edge.y + edge.height / 2, Math.max(edge.y - edge.height / 2, at.y + dy / at.scale));
      unname();
      draw();
    }
    async function name(i) {
      marked = i;
      canvas.style.cursor = i === null ? "grab" : "pointer";
      draw();
      if (i === null) return M.hideTip();
      const run = M.site.runs[map.runs[map.run[i]]], feature = map.feature[i];
      const row = await M.rowOf(run, feature);
      if (marked !== i) return;
      const [x, y] = toScreen(i), box = canvas.getBoundingClientRect();
      const spot = { left: box.left + x + 8, top: box.top + y - 8, bottom: box.top + y + 8 };
      M.showTip(spot, [el("p", {}, el("span", { class: "id" }, el("bdi", {}, M.visible(run.name)), `/${feature}`), " ", M.featureName(row)),
        row.best ? el("p", {}, M.snippet(row.best, row.texts, M.dense(row.best[2], row.best[0].length)[row.best[1]])) : null].filter(Boolean));
    }
    const view = { draw, fit, zoom, pan, all: () => look(all), light: (c) => { lit = c ?? held; draw(); },
      hold: (c) => {
        lit = held = c;
        if (c === null) draw();
        else look(all.filter((i) => map.cluster[i] === c), 0.5);
      },
      now: () => ({ ...at, held }),
      again: ({ x, y, scale }) => { Object.assign(at, { x, y, scale }); draw(); },
      /** Names a feature, and goes there if `move`: who comes back finds the map as it was left. */
      find: (run, feature, move) => {
        const i = all.find((k) => map.run[k] === run && map.feature[k] === feature);
        if (i === undefined) return;
        if (move) Object.assign(at, { x: map.x[i], y: map.y[i], scale: whole * 6 });
        const [x, y] = toScreen(i);
        if (x >= 0 && y >= 0 && x <= canvas.clientWidth && y <= canvas.clientHeight) name(i);
        else draw();
      } };
    M.moves(canvas, { zoom, pan, point: (x, y) => name(nearest(x, y)), leave: () => name(null), open: (x, y, touch) => {
      const i = nearest(x, y);
      if (i === null || (touch && i !== marked)) return name(i);
      const run = M.site.runs[map.runs[map.run[i]]];
      M.go(M.link("feature", run.sweep, run.name, map.feature[i]));
    } });
    new ResizeObserver(fit).observe(canvas);
    window.addEventListener("theme", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    return view;
  }
})();
