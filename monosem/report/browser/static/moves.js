"use strict";
/* Pointers on a canvas: drag, wheel, two fingers, pointing and clicking, as calls to zoom, pan, point and open. */

M.moves = (canvas, { zoom, pan, point, leave, open }) => {
  const down = new Map();
  let moved = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...place(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    if (down.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event), before = down.get(event.pointerId);
    if (!before) return point(...now);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (down.size === 2) {
      const other = [...down].find(([id]) => id !== event.pointerId)[1];
      const span = (p) => Math.max(10, Math.hypot(p[0] - other[0], p[1] - other[1]));
      zoom(span(now) / span(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      pan(now[0] - before[0], now[1] - before[1]);
    }
    down.set(event.pointerId, now);
  });
  const up = (event) => {
    const alone = down.size === 1;
    down.delete(event.pointerId);
    if (event.type === "pointerup" && alone && moved < 5) open(...place(event), event.pointerType === "touch");
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  // A finger leaves whenever it is lifted: what its tap has named stays named.
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
};
