"use strict";
/* The blind rubric (Bricken et al. 2023, appendix): features and neurons without a label. All intervals are shown, for an
   interpretation of the whole; a few of them are then marked with 14 points. Answers stay in this browser; they leave it as a CSV file. Address: rubric.html#sweep/run. */

(() => {
  const { el } = M;
  const QUESTIONS = [
    ["confidence", 3, "How confident are you in your interpretation?", "0: none to speak of; 3: certain"],
    ["consistency", 5, "How consistent are the strongest tokens of this interval with it?", "0: not at all; 5: all of them"],
    ["logits", 3, "How consistent are the positive logits with it?", "0: not at all; 3: all of them"],
    ["gap", 1, "Some logits do not fit: are those that fit clearly larger?", "1: yes"],
    ["specificity", 3, "How specific is your interpretation?", "0: it would fit most text; 3: it fits little else"],
  ];
  const INTERPRETATION = "interpretation";

  M.view(async (parts, main, was) => {
    const run = M.findRun(parts);
    M.crumbs(["Start", "index.html"], [run.sweep, M.link("index", "sweep", run.sweep)], [run.name, M.link("run", run.sweep, run.name)], ["rubric"]);
    const exercise = await M.load(`${run.sweep}/${run.name}/rubric`);
    const state = { exercise, answers: read(exercise.key), item: 0 };
    state.item = was.item ?? Math.max(0, exercise.items.findIndex((item) => !done(state, item)));
    M.remembering = () => ({ item: state.item });
    const page = el("div", { class: "rubric" });
    main.append(M.tabs(run, "rubric"), el("header", { class: "head" }, el("h1", {}, "Blind rubric"),
      el("p", { class: "note" }, "Each item is a feature or a neuron; which is not said. Read its logits and the examples of all its intervals, write down what you think it stands for, then mark by that the intervals that have questions. ",
        "Answers stay in this browser until you export them; ", el("code", {}, "monosem rubric"), " marks the file.")), page);
    const draw = () => {
      page.replaceChildren(bar(state, draw), item(state, draw));
    };
    draw();
    M.keys({ ArrowLeft: () => move(state, -1, draw), ArrowRight: () => move(state, 1, draw) });
  });

  function read(key) {
    try {
      return new Map(JSON.parse(M.kept(`rubric:${key}`) || "[]"));
    } catch {
      return new Map();
    }
  }

  function answer(state, item, interval, question, value) {
    state.answers.set(`${item.item} ${interval} ${question}`, value);
    M.keep(`rubric:${state.exercise.key}`, JSON.stringify([...state.answers]));
  }

  function answered(state, item, interval, question) {
    return state.answers.get(`${item.item} ${interval} ${question}`);
  }

  function asked(state, item, interval) {
    const logits = answered(state, item, interval, "logits");
    return QUESTIONS.filter(([q]) => q !== "gap" || (logits !== undefined && Number(logits) < 3));
  }

  function done(state, item) {
    return item.marked.every((interval) => asked(state, item, interval).every(([q]) => answered(state, item, interval, q) !== undefined));
  }

  function move(state, by, draw) {
    state.item = Math.max(0, Math.min(state.exercise.items.length - 1, state.item + by));
    draw();
    scrollTo(0, 0);
    M.remember();
  }

  function bar(state, draw) {
    const { items } = state.exercise;
    const finished = items.filter((item) => done(state, item)).length;
    return el("div", { class: "bar" },
      el("button", { type: "button", onclick: () => move(state, -1, draw), disabled: state.item === 0 }, "\u2190 before"),
      el("span", { role: "status" }, `item ${state.item + 1} of ${items.length}; ${finished} finished`),
      el("progress", { max: items.length, value: finished, "aria-label": "finished items" }),
      el("button", { type: "button", onclick: () => move(state, 1, draw), disabled: state.item === items.length - 1 }, "next \u2192"),
      el("button", { type: "button", class: "export", onclick: () => download(state) }, "Export CSV"));
  }

  function item(state, draw) {
    const one = state.exercise.items[state.item];
    const box = el("textarea", { rows: "2", id: "interpretation", maxlength: "2000",
      onchange: (event) => answer(state, one, "", INTERPRETATION, event.target.value) });
    box.value = answered(state, one, "", INTERPRETATION) || "";
    return el("div", {},
      el("div", { class: "twins" },
        el("section", {}, el("h2", {}, "Positive logits"), el("ol", { class: "logits up" }, M.pairs(one.up).map(([t, v]) => el("li", {}, M.word(one.texts[t]), el("span", { class: "n" }, M.number(v)))))),
        el("section", {}, el("h2", {}, el("label", { for: "interpretation" }, "1. What does it stand for?")), box)),
      one.groups.map(([interval, list], n) => {
        const marked = one.marked.includes(interval), said = `Interval ${n + 1} of ${one.groups.length}`;
        return el("section", { class: marked ? "interval marked" : "interval" },
          el("h2", {}, said, marked ? [" ", el("span", { class: "kind" }, "to be marked"), el("span", { class: "n" }, total(state, one, interval))] : null),
          M.examples(list, one.texts, one.max),
          marked ? el("div", { class: "questions" }, asked(state, one, interval).map((q) => question(state, one, interval, q, draw))) : null);
      }));
  }

  function question(state, one, interval, [name, most, text, scale], draw) {
    const now = answered(state, one, interval, name);
    const group = `${interval} ${name}`;
    return el("fieldset", {}, el("legend", {}, text, " ", el("span", { class: "note" }, scale)),
      Array.from({ length: most + 1 }, (_, points) => el("label", {}, el("input", { type: "radio", name: group, value: points, checked: now === points,
        onchange: () => {
          answer(state, one, interval, name, points);
          const where = scrollY;
          draw();
          scrollTo(0, where);
          [...document.getElementsByName(group)].find((r) => r.checked)?.focus({ preventScroll: true });
        } }), String(points))));
  }

  function total(state, one, interval) {
    const points = asked(state, one, interval).map(([q]) => answered(state, one, interval, q));
    return points.every((p) => p !== undefined) ? ` ${points.reduce((a, b) => a + b)} of 14` : "";
  }

  function download(state) {
    const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
    const rows = [["key", "item", "interval", "question", "answer"]];
    for (const one of state.exercise.items) {
      const said = answered(state, one, "", INTERPRETATION);
      if (said) rows.push([state.exercise.key, one.item, "", INTERPRETATION, said]);
      for (const interval of one.marked) {
        for (const [q] of asked(state, one, interval)) {
          const value = answered(state, one, interval, q);
          if (value !== undefined) rows.push([state.exercise.key, one.item, interval, q, value]);
        }
      }
    }
    const blob = new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" });
    const anchor = el("a", { href: URL.createObjectURL(blob), download: `rubric-${state.exercise.key.replace(/[^A-Za-z0-9._-]/g, "_")}.csv` });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
  }
})();
