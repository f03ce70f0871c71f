"use strict";
/* Small SVG charts with axes: histograms, outlines, scatter and lines. Colours come from the style sheet (c0, c1 ...). */

(() => {
  const { el } = M;
  const PAD = { left: 46, right: 12, top: 10, bottom: 38 };

  /** A scale from [lo, hi] to [from, to], with round ticks; logarithmic where asked. */
  function scale(lo, hi, from, to, log = false) {
    const f = log ? Math.log10 : (x) => x;
    const [a, b] = lo === hi ? [f(lo) - 0.5, f(hi) + 0.5] : [f(lo), f(hi)];
    const at = (x) => from + ((f(x) - a) / (b - a)) * (to - from);
    at.ticks = log ? logTicks(a, b) : roundTicks(a, b, Math.abs(to - from) / 62);
    at.invert = (pixel) => a + ((pixel - from) / (to - from)) * (b - a);
    return at;
  }

  function roundTicks(a, b, wanted) {
    const raw = (b - a) / Math.max(2, wanted);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const ticks = [];
    for (let i = Math.ceil(a / step - 1e-9); i * step <= b + 1e-9 * step; i++) ticks.push(i * step);
    return ticks;
  }

  function logTicks(a, b) {
    const steps = b - a > 2.5 ? [1] : b - a > 1 ? [1, 3] : [1, 2, 5];
    const ticks = [];
    for (let p = Math.floor(a); p <= Math.ceil(b); p++) {
      for (const m of steps) if (Math.log10(m) + p >= a - 1e-9 && Math.log10(m) + p <= b + 1e-9) ticks.push(m * 10 ** p);
    }
    return ticks;
  }

  /** An empty chart: { svg, plane, x, y, width, height }. `x` and `y`: { lo, hi, log, label, form }. */
  function chart(title, x, y, { width = 460, height = 270 } = {}) {
    const sx = scale(x.lo, x.hi, PAD.left, width - PAD.right, x.log);
    const sy = scale(y.lo, y.hi, height - PAD.bottom, PAD.top, y.log);
    const form = (axis) => axis.form || ((v) => M.number(Math.abs(v) < 1e-12 ? 0 : v));
    const axes = el("g", { class: "axes", "aria-hidden": "true" },
      el("line", { x1: PAD.left, x2: width - PAD.right, y1: height - PAD.bottom, y2: height - PAD.bottom }),
      sx.ticks.map((v) => [
        el("line", { x1: sx(v), x2: sx(v), y1: height - PAD.bottom, y2: height - PAD.bottom + 4 }),
        el("text", { x: sx(v), y: height - PAD.bottom + 16, "text-anchor": "middle" }, form(x)(v)),
      ]),
      (y.hidden ? [] : sy.ticks).map((v) => [
        el("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: sy(v), y2: sy(v) }),
        el("text", { x: PAD.left - 6, y: sy(v) + 4, "text-anchor": "end" }, form(y)(v)),
      ]),
      x.label ? el("text", { class: "label", x: (PAD.left + width - PAD.right) / 2, y: height - 5, "text-anchor": "middle" }, x.label) : null,
      y.label ? el("text", { class: "label", x: -(height - PAD.bottom + PAD.top) / 2, y: 11, "text-anchor": "middle", transform: "rotate(-90)" }, y.label) : null);
    const plane = el("g", {});
    const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, class: "chart" }, axes, plane);
    return { svg, plane, x: sx, y: sy, width, height, floor: height - PAD.bottom };
  }

  /** A bar as a button that stays pressed: `press` says whether it is so now. */
  function pressable(area, said, pressed, press) {
    const show = (on) => area.setAttribute("aria-pressed", String(on));
    const pressing = () => {
      const on = press();
      for (const other of area.parentNode.querySelectorAll("[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
      show(on);
    };
    for (const [name, value] of [["role", "button"], ["tabindex", "0"], ["aria-label", said]]) area.setAttribute(name, value);
    show(pressed);
    area.addEventListener("click", pressing);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      pressing();
    });
  }

  /** Bars over equal bins. `tone(i)` gives a class and a strength (0..1) to bar i; `pick(i)` makes bars buttons and says
      whether bar i is pressed now, `picked` is the one that is at first. */
  M.histogram = (title, { counts, lo, hi }, { label, tone, pick, picked, form, tell, height = 150, width = 340, log = false } = {}) => {
    const high = Math.max(1, ...counts);
    const c = chart(title, { lo, hi, label, form }, { lo: log ? 0.5 : 0, hi: high, log, hidden: true }, { width, height });
    const step = (hi - lo) / counts.length;
    if (pick) c.svg.setAttribute("role", "group");      // an image's parts are not read out
    counts.forEach((n, i) => {
      const left = c.x(lo + i * step), right = c.x(lo + (i + 1) * step);
      const top = n ? Math.min(c.y(n), c.floor - 1) : c.floor;
      const shade = tone ? tone(lo + (i + 0.5) * step) : { class: "bar" };
      const said = tell ? tell(n, lo + i * step, lo + (i + 1) * step)
        : `${M.count(n)} from ${M.number(lo + i * step)} to ${M.number(lo + (i + 1) * step)}`;
      const bar = el("rect", { class: shade.class, x: left + 0.5, width: Math.max(0.5, right - left - 1), y: top, height: c.floor - top });
      if (shade.style) for (const [k, v] of Object.entries(shade.style)) bar.style.setProperty(k, v);
      const area = el("rect", { class: "area", x: left, width: right - left, y: 0, height: c.floor }, el("title", { svg: true }, said));
      if (pick && n) pressable(area, said, i === picked, () => pick(i));
      c.plane.append(bar, area);
    });
    return c.svg;
  };

  /** Outlines of histograms over the same kind of axis: series of { name, edges, counts, colour }. */
  M.outlines = (title, series, { label, lo, hi, form, ylabel } = {}) => {
    const high = Math.max(1, ...series.flatMap((s) => s.counts));
    const c = chart(title, { lo, hi, label, form }, { lo: 0, hi: high * 1.05, label: ylabel });
    for (const s of series) {
      let d = `M${c.x(Math.max(lo, s.edges[0]))},${c.floor}`;
      s.counts.forEach((n, i) => {
        if (s.edges[i + 1] > lo) d += `V${c.y(n)}H${c.x(Math.min(hi, s.edges[i + 1]))}`;
      });
      c.plane.append(el("path", { d: d + `V${c.floor}`, class: `stroke c${s.colour}`, "data-run": s.key }, el("title", { svg: true }, s.name)));
    }
    return c.svg;
  };

  /** Where a name of so many characters can stand beside (x, y): the first place that no mark and no other name takes. */
  function place(x, y, length, marks, taken, width) {
    const wide = 7 * length;
    const places = [
      { left: x + 8, x: x + 8, y: y + 4, "text-anchor": "start" }, { left: x - 8 - wide, x: x - 8, y: y + 4, "text-anchor": "end" },
      { left: x - wide / 2, x, y: y - 9, "text-anchor": "middle" }, { left: x - wide / 2, x, y: y + 17, "text-anchor": "middle" },
    ];
    const free = ({ left, y: base }) => {
      const [right, top, bottom] = [left + wide, base - 10, base + 2];
      return left > 0 && right < width && !marks.some(([a, b]) => a + 5 > left && a - 5 < right && b + 5 > top && b - 5 < bottom)
        && !taken.some((t) => t.left < right && t.left + t.wide > left && t.y - 10 < bottom && t.y + 2 > top);
    };
    const found = places.find(free);
    if (!found) return null;
    taken.push({ ...found, wide });
    return { x: found.x, y: found.y, "text-anchor": found["text-anchor"] };
  }

  /** Points { x, y, name, href, colour, front, group }, the front of each group joined by a line; names stand beside the
      points. */
  M.scatter = (title, points, { xlabel, ylabel, ylo, yhi } = {}) => {
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const spare = Math.max(0.02, 0.12 * (high - low));
    const c = chart(title, { lo: 0, hi: 1.12 * Math.max(1e-9, ...xs), label: xlabel },
      { lo: ylo ?? Math.max(0, low - spare), hi: yhi ?? high + spare, label: ylabel });
    for (const group of new Set(points.map((p) => p.group))) {
      const front = points.filter((p) => p.front && p.group === group).sort((a, b) => a.x - b.x);
      c.plane.append(el("polyline", { class: "front", points: front.map((p) => `${c.x(p.x)},${c.y(p.y)}`).join(" ") }));
    }
    const marks = points.map((p) => [c.x(p.x), c.y(p.y)]), taken = [];
    for (const [i, p] of points.entries()) {
      const [x, y] = marks[i], shown = M.visible(p.name, 16);
      const said = `${p.name}: L0 ${M.number(p.x)}, ${ylabel} ${M.number(p.y)}`;
      const mark = el("circle", { cx: x, cy: y, r: 5, class: `fill c${p.colour}${p.front ? "" : " hollow"}` }, el("title", { svg: true }, said));
      const spot = place(x, y, shown.length, marks, taken, c.width);
      const name = spot && el("text", spot, shown);
      c.plane.append(p.href ? el("a", { svg: true, href: p.href, "aria-label": said }, mark, name) : el("g", {}, mark, name));
    }
    return c.svg;
  };

  /** Lines through series of { name, colour, points: [[x, y], ...] }. */
  M.lines = (title, series, { xlabel, ylabel, ylog = true } = {}) => {
    const all = series.flatMap((s) => s.points).filter(([, y]) => !ylog || y > 0);
    const xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
    const c = chart(title, { lo: 0, hi: Math.max(...xs), label: xlabel },
      { lo: Math.min(...ys), hi: Math.max(...ys), log: ylog, label: ylabel });
    for (const s of series) {
      const points = s.points.filter(([, y]) => !ylog || y > 0).map(([x, y]) => `${c.x(x).toFixed(1)},${c.y(y).toFixed(1)}`);
      c.plane.append(el("polyline", { points: points.join(" "), class: `stroke c${s.colour}`, "data-run": s.key }, el("title", { svg: true }, s.name)));
    }
    return c.svg;
  };
})();
