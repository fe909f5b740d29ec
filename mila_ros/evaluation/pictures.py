"""Pictures for people out of arrays: class colours over the frame, depth and normals as colours; legends."""

from __future__ import annotations

import base64
import colorsys
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import IGNORE

Rgb = npt.NDArray[np.uint8]
JPEG_QUALITY = 88
# Near is warm, far is cold, neither end is dark: black is unknown.
DEPTH_COLOURS = "Spectral"
_OPACITY = 0.65
_RARE = 0.002  # share of all pixels below which a class is left out of the legend


def class_colours(palette: Sequence[Sequence[int]], classes: int) -> Rgb:
    """(256, 3) RGB by id; made up where the model has no palette; black without a class."""
    table = np.zeros((256, 3), np.uint8)
    if len(palette) >= classes:
        table[:classes] = np.asarray(palette[:classes], np.uint8).reshape(-1, 3)
    else:
        hues = np.linspace(0, 1, classes, endpoint=False)
        table[:classes] = [[round(255 * v) for v in colorsys.hsv_to_rgb(h, 0.65, 0.9)] for h in hues]
    return table


def segmentation_picture(ids: npt.NDArray[np.uint8], table: Rgb, rgb: Rgb) -> Rgb:
    """Class colours over the frame, (h, w, 3); the frame itself, darkened, where there is no class."""
    picture = fitted(rgb, ids.shape)
    blended = cv2.addWeighted(table[ids], _OPACITY, picture, 1.0 - _OPACITY, 0.0)
    unknown = ids == IGNORE
    blended[unknown] = picture[unknown] // 3
    return np.asarray(blended, dtype=np.uint8)


def depth_picture(depth: npt.NDArray[np.float32], farthest: float) -> Rgb:
    """Metres as colours from 0 to `farthest`, (h, w, 3)."""
    known = np.isfinite(depth) & (depth > 0)
    share = np.clip(np.where(known, depth, 0.0) / farthest, 0.0, 1.0)
    coloured = (_colour_map()[(share * 255).astype(np.uint8)]).copy()
    coloured[~known] = 0
    return coloured


def normals_picture(normals: npt.NDArray[np.float32]) -> Rgb:
    """Unit vectors as colours: red right, green up, blue towards the camera. Black unknown.

    The optical frame's y and z point down and away; turned round, a wall seen head-on is blue, a floor is green.
    """
    known = np.isfinite(normals).all(axis=-1)
    turned = np.where(known[..., None], normals, 0.0) * np.array([1.0, -1.0, -1.0], np.float32)
    coloured = np.clip((turned + 1.0) * 127.5, 0, 255).astype(np.uint8)
    coloured[~known] = 0
    return coloured


def task_picture(task: str, values: npt.NDArray[Any], rgb: Rgb, table: Rgb, farthest: float) -> Rgb:
    """An answer or ground truth as colours, (h, w, 3). farthest: metres at the far end of the depth colours."""
    if task == "segmentation":
        return segmentation_picture(values, table, rgb)
    return depth_picture(values, farthest) if task == "depth" else normals_picture(values)


def error_picture(error: npt.NDArray[np.float32]) -> Rgb:
    """Errors of 0..1 as colours, (h, w, 3): dark is right, bright is wrong, grey is unknown."""
    known = np.isfinite(error)
    table = np.round(matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    coloured = table[(np.where(known, error, 0) * 255).astype(np.uint8)].copy()
    coloured[~known] = 128
    return coloured


def fitted(rgb: Rgb, size: Sequence[int]) -> Rgb:
    """The frame at (h, w)."""
    if rgb.shape[:2] == tuple(size[:2]):
        return rgb
    return np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def depth_range(depths: Iterable[npt.NDArray[np.float32]]) -> float:
    """Metres at the far end of the colours: 98 of 100 pixels are nearer; rounded up to half a metre."""
    samples = [values[np.isfinite(values) & (values > 0)][::37] for values in depths]
    joined = np.concatenate(samples) if samples else np.empty(0)
    return max(0.5, math.ceil(float(np.percentile(joined, 98)) * 2) / 2) if joined.size else 5.0


def legend(pictures: Iterable[npt.NDArray[np.uint8]], classes: Sequence[str], table: Rgb) -> list[tuple[str, str]]:
    """(name, CSS colour) of the classes that occur in these label pictures, by frequency; last, of what has none."""
    counts: Counter[int] = Counter()
    for ids in pictures:
        values, times = np.unique(ids, return_counts=True)
        counts.update({int(v): int(t) for v, t in zip(values, times)})
    total = sum(counts.values())
    found = []
    for value, times in counts.most_common():
        if value < len(classes) and times >= _RARE * total:
            red, green, blue = (int(c) for c in table[value])
            found.append((classes[value], f"rgb({red},{green},{blue})"))
    if counts[IGNORE] >= max(1.0, _RARE * total):
        found.append(("unlabelled", "rgb(50,50,50)"))  # the frame itself, darkened (segmentation_picture)
    return found


def depth_gradient() -> str:
    """CSS colours of the depth scale, near to far."""
    colours = _colour_map()[np.linspace(0, 255, 16).astype(int)]
    return ", ".join(f"rgb({r},{g},{b})" for r, g, b in colours)


def jpeg(picture: Rgb, quality: int = JPEG_QUALITY) -> bytes:
    """Encoded as JPEG."""
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def data_uri(picture: Rgb) -> str:
    """For an <img> of a page that needs no other file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(picture)).decode()


def _colour_map() -> Rgb:
    colours = matplotlib.colormaps[DEPTH_COLOURS](np.linspace(0, 1, 256))[:, :3]
    return np.asarray(np.round(colours * 255), dtype=np.uint8)
