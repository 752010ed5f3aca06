"""Plots without a screen, by matplotlib, which is imported at the first plot."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tfp_vaeflow.common import files

_SIZE = (6.4, 3.6)
_DPI = 100


@contextmanager
def _drawn(path: str | os.PathLike, x: str, y: str) -> Iterator:
    """Axes to draw on, written to `path` as PNG at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, _DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    if axes.get_legend_handles_labels()[1] and axes.get_legend() is None:
        axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    files.write_bytes(path, png.getvalue())


def curves(
    path: str | os.PathLike,
    lines: dict[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
) -> None:
    """Lines of points; those named `validation ...` are dashed.

    Args:
      path: where the PNG goes.
      lines: by name, (xs, ys); names that differ in their first word share a colour.
      x, y: what the axes show.
    """
    colours = {}
    with _drawn(path, x, y) as axes:
        for name, (xs, ys) in lines.items():
            first, _, rest = name.partition(" ")
            colour = colours.setdefault(rest, f"C{len(colours)}")
            style = "--" if first == "validation" else "-"
            axes.plot(xs, ys, style, color=colour, label=name, linewidth=1.2)


def bars(path: str | os.PathLike, heights: Sequence[float], x: str, y: str) -> None:
    """One bar per height, in the order given."""
    with _drawn(path, x, y) as axes:
        axes.bar(np.arange(len(heights)), heights, width=0.8)


def curve_with_error(
    path: str | os.PathLike,
    points: Sequence[tuple[float, float, float]],
    level: float,
    level_name: str,
    x: str,
    y: str,
) -> None:
    """A curve of (x, y, error), and a level to compare it with.

    If the largest y is more than 30 times the least y, the scale is logarithmic above
    the least (by absolute value).
    """
    xs, ys, errors = zip(*points)
    with _drawn(path, x, y) as axes:
        if max(ys) > 30 * abs(min(ys)) > 0:
            axes.set_yscale("symlog", linthresh=abs(min(ys)))
        axes.errorbar(xs, ys, errors, marker="o", capsize=3)
        axes.axhline(level, linestyle=":", color="grey", label=level_name)


def scatter(
    path: str | os.PathLike,
    points: np.ndarray,
    labels: np.ndarray | None,
    name_of: Callable[[int], str] = str,
) -> None:
    """Points of a plane `[N, 2]`, coloured by label where there are labels.

    Args:
      path: where the PNG goes.
      points: `[N, 2]`.
      labels: `[N]`; None where there are none.
      name_of: gives the name of a label.
    """
    with _drawn(path, "", "") as axes:
        axes.set_axis_off()
        if labels is None:
            axes.scatter(*points.T, s=6)
            return
        for number, label in enumerate(np.unique(labels)):
            chosen = points[labels == label]
            colour = f"C{number % 10}"
            # Matplotlib reads `$` as a formula, and skips names that start with `_`.
            name = name_of(label).replace("$", r"\$")
            name = f" {name}" if name.startswith("_") else name
            axes.scatter(*chosen.T, s=6, color=colour, label=name)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def learning_curves(
    path: str | os.PathLike, records: list[dict], names: Sequence[str], y: str
) -> None:
    """Named values of a run's metrics, training and validation, by epoch.

    Values of 0 are left out. Metrics without epochs are plotted by step.

    Args:
      path: where the PNG goes.
      records: of the run, see `metrics_file.read`.
      names: of the values; the plot shows the part after the slash.
      y: label of the y axis.
    """
    scale, unit = 1.0, "step"
    known = [record for record in records if record.get("epoch")]
    if known:
        scale, unit = known[-1]["epoch"] / known[-1]["step"], "epoch"
    lines = {}
    for split, shown in (("train", "training"), ("eval", "validation")):
        for name in names:
            found = [r for r in records if r["split"] == split and r.get(name)]
            if found:
                line = [scale * r["step"] for r in found], [r[name] for r in found]
                lines[f"{shown} {name.rsplit('/', 1)[-1]}"] = line
    curves(path, lines, unit, y)
