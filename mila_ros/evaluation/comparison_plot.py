"""The plot of a comparison: what accuracy costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from mila_ros.errors import UserError
from mila_ros.evaluation.comparison_table import value_of
from mila_ros.evaluation.cost import split
from mila_ros.evaluation.plots import ACCENT, INK, MUTED, SECOND, WARM, new_figure, styled

_SHOWN = {
    "segmentation": ("miou", "mIoU %", 100.0),
    "depth": ("rmse", "depth RMSE m", 1.0),
    "normals": ("mean_deg", "normals, mean °", 1.0),
}
_COLOURS = {"slow": INK, "fast": MUTED, "mila": ACCENT, "reuse": WARM, "flow": SECOND}
"""By way to answer."""
_MARKERS = "osD^vP*X"
"""By model."""


def check_kind(path: Path) -> None:
    """Before the work whose result is to be drawn.

    Raises:
        UserError: no kind of picture that can be drawn.
    """
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"{path}: a plot is a .svg, .png or .pdf file")


def draw(results: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> None:
    """Accuracy against arithmetic, a panel a task, a point a method (as Kim et al., ICCVW 2021, figure 1).

    Colours tell ways to answer apart, markers models; at a point stands its distance (@D) or interval (/K).

    path: .svg, .png or .pdf.

    Raises:
        UserError: it cannot be written, or is of another kind.
    """
    known = {
        task: [value_of(result, f"{task}.{key}") for result in results.values()] for task, (key, *_) in _SHOWN.items()
    }
    tasks = [task for task, values in known.items() if any(value is not None for value in values)]
    models = list(dict.fromkeys(name.rpartition(" ")[0] for name in results))
    with styled():
        figure, panels = new_figure(4.2 * len(tasks), 3.8, len(tasks))
        for axes, task in zip(panels, tasks, strict=True):
            key, label, factor = _SHOWN[task]
            for name, result in results.items():
                value = value_of(result, f"{task}.{key}")
                if value is None:
                    continue
                model, _, method = name.rpartition(" ")
                way, _ = split(method)
                at = (result["gflops"], value * factor)
                marker = _MARKERS[models.index(model) % len(_MARKERS)]
                shown = axes.scatter(*at, color=_COLOURS[way], marker=marker, s=30, zorder=3, linewidths=0)
                shown.set_label(f"{model} {way}".strip())
                axes.annotate(method[len(way) :], at, (4, 3), textcoords="offset points", fontsize=7, color=MUTED)
            if task != "segmentation":
                axes.invert_yaxis()  # up is better in all of them
            axes.set(xscale="log", xlabel="GFLOPs a frame", ylabel=label, title=title if axes is panels[0] else "")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.margins(0.15)
        named = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))  # a name once
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), 8))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        plt.close(figure)
