"use strict";
/* The frame of every page: header, search box, theme, keys, the note under the pointer, and showing a view. */

(() => {
  const { el } = M;

  /** `show(parts, main, was)` draws the page for the parts of the address; it runs again when the address changes.
      `was`: what `M.remembering` gave when this page of the browser's history was left. */
  M.view = (show) => {
    let turn = 0, drawn = Promise.resolve();
    // One after the other, since each sets the title, the way here and the keys; those that are out of date not at all.
    const draw = () => {
      const mine = ++turn;
      drawn = drawn.then(() => mine === turn && drawNow(mine));
    };
    const drawNow = async (mine) => {
      const was = history.state || {};
      M.remembering = () => ({});
      const main = document.getElementById("main");
      const fresh = el("div", { class: "view" });
      try {
        M.site = await M.load("site");
        await show(M.route(), fresh, was);
      } catch (error) {
        fresh.replaceChildren(el("p", { class: "trouble", role: "alert" }, `This cannot be shown. ${M.visible(error.message, 300)} `,
          el("a", { href: "index.html" }, "Go to the start page.")));
      }
      if (mine !== turn) return;
      M.hideTip();
      main.replaceChildren(fresh);
      scrollTo(0, was.top || 0);
      document.body.dataset.ready = String(mine);
    };
    document.addEventListener("DOMContentLoaded", () => {
      frame();
      draw();
    });
    window.addEventListener("hashchange", draw);
  };

  /** Keeps with the page, for who comes back to it, how it looks now. */
  M.remember = () => history.replaceState({ ...M.remembering(), top: scrollY }, "");

  /** Puts what is shown now into the address, without going anywhere. */
  M.readdress = (page, ...parts) => history.replaceState(history.state, "", `#${M.link(page, ...parts).split("#")[1]}`);

  M.go = (href) => {
    M.remember();
    location.href = href;
  };

  function frame() {
    history.scrollRestoration = "manual";       // what is drawn is not there yet when the browser would scroll
    document.addEventListener("click", (event) => event.target.closest("a[href]") && M.remember(), { capture: true });
    const form = document.getElementById("find");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const words = form.elements.q.value.trim();
      if (words) location.href = M.link("index", "find", words);
    });
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const next = (document.documentElement.dataset.theme || system) === "dark" ? "light" : "dark";
      M.setTheme(next);
      M.keep("theme", next);
    });
    document.getElementById("skip").addEventListener("click", (event) => {
      event.preventDefault();     // the address after # is the view's
      document.getElementById("main").focus();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !typing(event.target)) {
        event.preventDefault();
        form.elements.q.select();
      }
      if (event.key === "Escape") M.hideTip();
    });
  }

  function typing(node) {
    return node.matches("input, textarea, select") || node.isContentEditable;
  }

  /** Whether a key does something of its own where it is pressed: Enter and Space on links, buttons and the like. */
  function pressed({ key, target }) {
    return (key === "Enter" || key === " ") && target.closest("a, button, summary, [role=button]") !== null;
  }

  /** Calls `act[key]()` for keys pressed outside of fields, without modifiers. One set of keys per page. */
  M.keys = (act) => {
    M.keys.now = act;
    if (M.keys.on) return;
    M.keys.on = true;
    document.addEventListener("keydown", (event) => {
      if (typing(event.target) || pressed(event) || event.ctrlKey || event.metaKey || event.altKey) return;
      const wanted = M.keys.now[event.key];
      if (!wanted || event.defaultPrevented) return;
      event.preventDefault();
      wanted();
    });
  };

  /** The way here: pairs of text and address (the last without one). */
  M.crumbs = (...trail) => {
    document.getElementById("crumbs").replaceChildren(...trail.map(([text, href]) => {
      const shown = el("bdi", {}, M.visible(text));
      return el("li", {}, href ? el("a", { href }, shown) : el("span", { "aria-current": "page" }, shown));
    }));
    document.title = `${M.visible(trail.map(([text]) => text).reverse().join(" - "), 120)} - monosem`;
  };

  /** The run called by the first two parts of an address, or an error that names what there is. */
  M.findRun = (parts) => {
    const run = M.site.runs.find((r) => r.sweep === parts[0] && r.name === parts[1]);
    if (!run) throw new Error(`There is no run ${parts.slice(0, 2).join("/")} here; choose one on the start page.`);
    return run;
  };

  /** The map that features of a run are on, or would be if it were not too large: each hook point has its own. */
  M.mapOf = (run) => M.site.sweeps.find((s) => s.name === run.sweep).maps.find((map) => map.point === run.point);

  /** Where a run reads, and where it writes if that is elsewhere. */
  M.hookOf = (run) => (run.point === run.hook ? run.hook : `${run.hook} \u2192 ${run.point}`);

  /** Links to the views of a run, the present one marked. */
  M.tabs = (run, here) => {
    const views = [["run", "Features"], ["texts", "Texts"], ["map", "Map"], ["rubric", "Rubric"]]
      .filter(([page]) => page !== "texts" || run.texts)
      .filter(([page]) => page !== "rubric" || run.kind !== "neurons")
      .filter(([page]) => page !== "map" || M.mapOf(run));
    return el("nav", { class: "tabs", "aria-label": "views of this run" }, views.map(([page, text]) =>
      el("a", { href: M.link(page, run.sweep, run.name), "aria-current": page === here ? "page" : null }, text)));
  };

  // The note under the pointer: one element for the whole page.
  let tip = null;
  M.showTip = (anchor, content) => {
    if (!tip) {
      tip = el("div", { id: "tip", role: "status" });
      document.body.append(tip);
    }
    tip.replaceChildren(...[content].flat());
    tip.hidden = false;
    const box = anchor.getBoundingClientRect ? anchor.getBoundingClientRect() : anchor;
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8));
    const below = box.bottom + 8;
    const top = below + tip.offsetHeight > innerHeight - 4 ? Math.max(4, box.top - tip.offsetHeight - 8) : below;
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  };
  M.hideTip = () => {
    if (tip) tip.hidden = true;
  };
  window.addEventListener("scroll", () => M.hideTip(), { passive: true });

  M.section = (title, note, ...children) =>
    el("section", {}, el("h2", {}, title), note ? el("p", { class: "note" }, note) : null, ...children);

  M.table = (heads, rows, attributes = {}) => el("div", { class: "wide" }, el("table", attributes,
    el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))))));
})();
