"""The plot of a comparison: what accuracy costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from mila_ros.errors import UserError
from mila_ros.evaluation.comparison_table import value_of
from mila_ros.evaluation.plots import ACCENT, INK, MUTED, SECOND, WARM, new_figure

_SHOWN = {
    "segmentation": ("miou", "mIoU %", 100.0),
    "depth": ("rmse", "depth RMSE m", 1.0),
    "normals": ("mean_deg", "normals, mean °", 1.0),
}
_COLOURS = {"slow": INK, "fast": MUTED, "mila": ACCENT, "reuse": WARM, "flow": SECOND}
"""By way to answer."""


def draw(results: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> None:
    """Accuracy against arithmetic, a panel a task, a point a method (as Kim et al., ICCVW 2021, figure 1).

    path: .svg, .png or .pdf.

    Raises:
        UserError: it cannot be written, or is of another kind.
    """
    tasks = [task for task, (key, *_) in _SHOWN.items() if any(value_of(r, f"{task}.{key}") for r in results.values())]
    figure, panels = new_figure(4.2 * len(tasks), 3.6, len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        key, label, factor = _SHOWN[task]
        for name, result in results.items():
            value = value_of(result, f"{task}.{key}")
            if value is None:
                continue
            way = re.split("[@/]", name.rpartition(" ")[2])[0]
            axes.scatter(result["gflops"], value * factor, color=_COLOURS[way], s=28, zorder=3)
            axes.annotate(name, (result["gflops"], value * factor), (4, 4), textcoords="offset points", fontsize=7.5)
        if task != "segmentation":
            axes.invert_yaxis()  # up is better in all of them
        axes.set(xscale="log", xlabel="GFLOPs a frame", ylabel=label, title=title if axes is panels[0] else "")
        axes.margins(0.18)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        plt.close(figure)
