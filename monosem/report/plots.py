"""The plots of the summary page, as SVG text with real text in it and no fixed colours for axes."""

import io

import matplotlib
from matplotlib.figure import Figure

from monosem.evals.laws import PowerLaw

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5566", "#004488", "#997700")
INK = "#123456"
"""A colour nothing else uses; replaced by `currentColor`, so that axes follow the page's light or dark mode."""

RARE = -6.0
"""log10 density at which the axis of densities begins, unless features are rarer still."""


def recovered_plot(runs: list[dict], neurons: dict[str, dict]) -> str:
    """L0 against loss recovered, one point per run; further left and higher is better. `neurons`: by hook point."""
    figure, axes = _figure()
    for row, colour in zip(runs, _colours(len(runs)), strict=True):
        l0, recovered = row["metrics"]["l0"], row["metrics"]["loss_recovered"]
        if recovered is None:
            continue
        axes.plot([l0], [recovered], "o", color=colour, markersize=8)
        axes.annotate(row["run"], (l0, recovered), xytext=(7, -3), textcoords="offset points", color=INK, fontsize=9)
    for hook_point, baseline in neurons.items():
        if len(neurons) == 1 or baseline["l0"] < 0.99 * baseline["d_in"]:  # a line for each dense point says nothing
            _neurons_line(axes, baseline["l0"], "neurons" if len(neurons) == 1 else hook_point)
    axes.axhline(1, color="#999999", linewidth=0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("L0: active features per token")
    axes.set_ylabel("loss recovered")
    return _svg(figure)


def fvu_plot(runs: list[dict]) -> str:
    """Fraction of variance unexplained against the number of features."""
    figure, axes = _figure()
    rows = sorted((row for row in runs if row["metrics"]["fvu"] is not None), key=lambda row: row["d_sae"])
    for family in dict.fromkeys(map(_family, rows)):  # a line through the sizes of one kind
        kin = [r for r in rows if _family(r) == family]
        axes.plot([r["d_sae"] for r in kin], [r["metrics"]["fvu"] for r in kin], color="#999999", linewidth=0.8)
    for row, colour in zip(runs, _colours(len(runs)), strict=True):
        if row in rows:
            axes.plot([row["d_sae"]], [row["metrics"]["fvu"]], "o", color=colour, markersize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({r["d_sae"] for r in rows}), [f"{n:,}" for n in sorted({r["d_sae"] for r in rows})])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max((r["metrics"]["fvu"] for r in rows), default=1))
    axes.set_xlabel("features")
    axes.set_ylabel("FVU")
    return _svg(figure)


def _family(row: dict) -> tuple:
    """What a run has besides its size."""
    names = ("variant", "l1_coefficient", "l0_coefficient", "k", "seed")
    return row["host"]["hook_name"], *(row.get(name) for name in names)


def density_plot(runs: list[dict]) -> str:
    """Histogram of log10 feature density, one outline per run."""
    figure, axes = _figure(width=7.4)
    lowest = RARE
    for row, colour in zip(runs, _colours(len(runs)), strict=True):
        h = row["metrics"]["density_histogram"]
        lowest = min([lowest, *(edge for edge, n in zip(h["edges"][:-1], h["counts"], strict=True) if n)])
        axes.stairs(h["counts"], h["edges"], color=colour, label=f"{row['run']} ({h['dead']:,} dead)", linewidth=1.6)
    axes.set_xlabel("log10 of the share of tokens on which a feature is active")
    axes.set_ylabel("features")
    axes.set_xlim(lowest, 0)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def curve_plot(curves: dict[str, list[dict]]) -> str:
    """Training FVU against rows seen, one line per run."""
    figure, axes = _figure(width=7.4)
    for (name, points), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        points = [p for p in points if "fvu" in p]
        axes.plot(
            [p["rows"] / 1e6 for p in points], [p["fvu"] for p in points], color=colour, label=name, linewidth=1.4
        )
    axes.set_yscale("log")
    axes.set_xlabel("million rows")
    axes.set_ylabel("FVU of the batch")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def law_plot(runs: list[dict], law: PowerLaw | None) -> str:
    """FVU against training compute, both logarithmic, and the law through it."""
    figure, axes = _figure()
    for row, colour in zip(runs, _colours(len(runs)), strict=True):
        axes.plot([row["compute"]], [row["fvu"]], "o", color=colour, markersize=7)
        _name(axes, row["run"], (row["compute"], row["fvu"]))
    if law:
        ends = [min(r["compute"] for r in runs) / 1.3, 2.6 * max(r["compute"] for r in runs)]
        axes.plot(ends, [law.at(c) for c in ends], "--", color="#999999", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:.2g}")
    axes.tick_params(which="minor", colors=INK, labelsize=8)
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("FVU")
    return _svg(figure)


def front_plot(runs: list[dict], points: list[tuple[float, float]], front: list[int], label: str) -> str:
    """L0 against a loss; the Pareto front as a line, what lies behind it hollow. Further left and lower is better."""
    figure, axes = _figure()
    axes.plot(*zip(*(points[i] for i in front), strict=True), color="#999999", linewidth=1, zorder=1)
    for i, (row, colour) in enumerate(zip(runs, _colours(len(runs)), strict=True)):
        face = colour if i in front else "none"
        axes.plot(*([value] for value in points[i]), "o", color=colour, markerfacecolor=face, markersize=7)
        _name(axes, row["run"], points[i])
    axes.set_xlim(left=0)
    axes.set_xlabel("L0: active features per token")
    axes.set_ylabel(label)
    return _svg(figure)


def _name(axes, text: str, at: tuple[float, float]) -> None:
    axes.annotate(text, at, xytext=(7, -3), textcoords="offset points", color=INK, fontsize=8)


def _neurons_line(axes, l0: float, label: str) -> None:
    axes.axvline(l0, color="#999999", linestyle=":", linewidth=1.2)
    axes.annotate(
        label, (l0, 1), xytext=(-4, -12), textcoords="offset points", ha="right", color="#999999", fontsize=9
    )


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _figure(width: float = 5.2):
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "monosem", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
