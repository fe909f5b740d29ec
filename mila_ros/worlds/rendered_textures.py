"""Textures of the rendered world: painted once by numpy into an atlas with mipmaps, then looked up by hit point.

A texel holds the shares of the three colours of a material, so one wood grain serves every wood, and averaging texels
(mipmaps, interpolation) averages colours. All textures repeat without a seam unless they are pictures ("fit").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIZE = 256
"""Texels on the side of a texture."""
LEVELS = 9

Array = npt.NDArray[np.float32]
Random = np.random.Generator

_V, _U = np.meshgrid((np.arange(SIZE) + 0.5) / SIZE, (np.arange(SIZE) + 0.5) / SIZE, indexing="ij")


def _noise(rng: Random, slope: float, stretch: tuple[float, float] = (1.0, 1.0)) -> Array:
    """Tileable noise in 0..1 whose spectrum falls as 1 / f^slope; stretch > 1 lengthens its features along u, v."""
    fu, fv = np.meshgrid(np.fft.fftfreq(SIZE) * SIZE * stretch[0], np.fft.fftfreq(SIZE) * SIZE * stretch[1])
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / (1.0 + np.hypot(fu, fv)) ** slope
    spectrum[0, 0] = 0
    field = np.fft.ifft2(spectrum).real
    return np.clip(0.5 + 0.22 * field / field.std(), 0, 1).astype(np.float32)


def _step(x: npt.ArrayLike, edge: float, soft: float = 0.02) -> Array:
    return np.clip((np.asarray(x) - edge) / soft + 0.5, 0, 1).astype(np.float32)


def _mix(second: npt.ArrayLike, third: npt.ArrayLike = 0.0) -> Array:
    """Shares of three colours: the third over a mixture of the first and the second."""
    m = np.broadcast_to(np.asarray(second, np.float32), (SIZE, SIZE))
    n = np.broadcast_to(np.asarray(third, np.float32), (SIZE, SIZE))
    return np.stack(((1 - m) * (1 - n), m * (1 - n), n), -1)


def _cells(rng: Random, rows: int, columns: int, shift: float = 0.0) -> tuple[Array, Array, Array]:
    """Coordinates in 0..1 in each cell of a wall of bricks, and a random number per cell."""
    row = np.floor(_V * rows)
    u = _U * columns + row * shift
    tone = rng.random((rows, columns))
    column = np.floor(u).astype(int) % columns
    return (
        (u % 1).astype(np.float32),
        (_V * rows % 1).astype(np.float32),
        tone[row.astype(int), column].astype(np.float32),
    )


def _gap(u: Array, v: Array, width_u: float, width_v: float) -> Array:
    edge_u, edge_v = np.minimum(u, 1 - u) / width_u, np.minimum(v, 1 - v) / width_v
    return (1 - _step(np.minimum(edge_u, edge_v), 1.0, 0.5)).astype(np.float32)


def _plain(rng: Random) -> Array:
    return _mix(_noise(rng, 1.6))


def _plaster(rng: Random) -> Array:
    return _mix(0.6 * _noise(rng, 1.2) + 0.4 * _noise(rng, 0.3))


def _grain(rng: Random) -> Array:
    streaks = _noise(rng, 1.2, (14, 1))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.integers(4, 9) * _V + 1.4 * _noise(rng, 1.9, (4, 1))))
    return np.clip(0.55 * streaks + 0.3 * rings + 0.3 * _noise(rng, 0.5, (20, 1)) - 0.1, 0, 1).astype(np.float32)


def _wood(rng: Random) -> Array:
    return _mix(_grain(rng))


def _planks(rng: Random) -> Array:
    u, v, tone = _cells(rng, 8, 1, rng.uniform(0.2, 0.6))
    grain = np.roll(_grain(rng), 31, 0)
    return _mix(np.clip(0.5 * grain + 0.7 * tone - 0.1, 0, 1), _gap(u, v, 0.004, 0.04))


def _tiles(rng: Random) -> Array:
    u, v, tone = _cells(rng, 4, 4)
    return _mix(np.clip(0.5 * tone + 0.5 * _noise(rng, 1.4), 0, 1), _gap(u, v, 0.025, 0.025))


def _checkered(rng: Random) -> Array:
    u, v, _ = _cells(rng, 4, 4)
    odd = (np.floor(_U * 4) + np.floor(_V * 4)) % 2
    return _mix(np.clip(odd * 0.9 + 0.2 * _noise(rng, 1.4) - 0.05, 0, 1), _gap(u, v, 0.015, 0.015))


def _bricks(rng: Random) -> Array:
    u, v, tone = _cells(rng, 8, 4, 0.5)
    return _mix(np.clip(0.7 * tone + 0.5 * _noise(rng, 1.0) - 0.1, 0, 1), _gap(u, v, 0.03, 0.08))


def _carpet(rng: Random) -> Array:
    return _mix(0.6 * _noise(rng, 0.2) + 0.4 * _noise(rng, 1.5))


def _weave(rng: Random) -> Array:
    n = int(rng.integers(24, 48))
    threads = 0.5 + 0.25 * np.sin(2 * np.pi * n * _U) + 0.25 * np.sin(2 * np.pi * n * _V)
    return _mix(np.clip(0.5 * threads + 0.3 * _noise(rng, 0.4) + 0.3 * _noise(rng, 1.6) - 0.1, 0, 1))


def _bands(rng: Random, count: int) -> tuple[Array, Array]:
    edges = np.sort(rng.random(count))
    which = np.searchsorted(edges, _U) % count
    kind = rng.permutation(count) % 3
    return (kind[which] == 1).astype(np.float32), (kind[which] == 2).astype(np.float32)


def _stripes(rng: Random) -> Array:
    second, third = _bands(rng, int(rng.integers(6, 16)))
    return _mix(np.clip(second + 0.15 * (_noise(rng, 0.5) - 0.5), 0, 1), third)


def _plaid(rng: Random) -> Array:
    second, third = _bands(rng, int(rng.integers(5, 9)))
    return _mix(np.clip(0.5 * second + 0.5 * second.T, 0, 1), np.clip(0.5 * third + 0.4 * third.T, 0, 1))


def _floral(rng: Random) -> Array:
    big, small = _noise(rng, 1.8), _noise(rng, 1.4)
    return _mix(_step(small, 0.62, 0.08), _step(big, 0.66, 0.06))


def _dots(rng: Random) -> Array:
    u, v, tone = _cells(rng, 8, 8, 0.5)
    radius = np.hypot(u - 0.5, v - 0.5)
    return _mix(_step(tone, 0.6) * _step(-radius, -0.3, 0.06), _step(-tone, -0.6) * _step(-radius, -0.25, 0.06))


def _granite(rng: Random) -> Array:
    return _mix(_step(_noise(rng, 0.5), 0.55, 0.3), _step(_noise(rng, 0.6), 0.75, 0.1))


def _marble(rng: Random) -> Array:
    veins = 1 - np.abs(np.sin(np.pi * (_U * 2 + 2.5 * _noise(rng, 1.8))))
    return _mix(_noise(rng, 1.4) * 0.6, veins**6 * 0.7)


def _leather(rng: Random) -> Array:
    return _mix(0.7 * _noise(rng, 1.7) + 0.3 * _noise(rng, 0.5), _step(-np.abs(_noise(rng, 1.1) - 0.5), -0.01) * 0.3)


def _edge_distance() -> Array:
    return np.minimum(np.minimum(_U, 1 - _U), np.minimum(_V, 1 - _V)).astype(np.float32)


def _rug(rng: Random) -> Array:
    edge = _edge_distance()
    border = _step(edge, 0.04) * (1 - _step(edge, rng.uniform(0.07, 0.14)))
    n = int(rng.integers(2, 7))
    inner = np.abs(((_U * n) % 1) - 0.5) + np.abs(((_V * n) % 1) - 0.5)
    pattern = _step(np.sin(2 * np.pi * inner * rng.integers(1, 4)), rng.uniform(-0.2, 0.5), 0.1) * _step(edge, 0.15)
    return _mix(np.clip(pattern + 0.3 * (_noise(rng, 0.3) - 0.5), 0, 1), border)


def _picture(rng: Random) -> Array:
    """A framed print: blocks, blots and a horizon inside a pale mount."""
    m, n = _noise(rng, rng.uniform(1.2, 2.2)), _noise(rng, rng.uniform(1.2, 2.2))
    horizon = _step(_V + 0.25 * (_noise(rng, 1.8) - 0.5), rng.uniform(0.35, 0.7))
    second, third = np.clip(2.2 * m - 0.6, 0, 1) * (1 - horizon), np.clip(1.8 * n - 0.4, 0, 1) * horizon
    for _ in range(int(rng.integers(0, 6))):
        cu, cv, ru, rv = rng.uniform(0.15, 0.85, 2).tolist() + rng.uniform(0.04, 0.3, 2).tolist()
        inside = (
            (np.abs(_U - cu) < ru) & (np.abs(_V - cv) < rv)
            if rng.random() < 0.5
            else np.hypot((_U - cu) / ru, (_V - cv) / rv) < 1
        )
        second, third = np.where(inside, rng.random(), second), np.where(inside, rng.random(), third)
    return _mix(second, third)


def _page(rng: Random) -> Array:
    """Lines of writing with margins, as on paper, notices and whiteboards."""
    rows = int(rng.integers(10, 26))
    line = np.floor(_V * rows).astype(int)
    length = rng.uniform(0.2, 0.95, rows) * (rng.random(rows) < 0.75)
    ink = (np.abs(_V * rows % 1 - 0.5) < 0.22) & (_U > 0.06) & (_U < length[line]) & (_noise(rng, 0.3, (2, 1)) > 0.47)
    return _mix(0.2 * _noise(rng, 1.8), ink * (_edge_distance() > 0.04))


def _screen(rng: Random) -> Array:
    second, third = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for _ in range(int(rng.integers(4, 12))):
        u, v = rng.uniform(0, 0.8, 2)
        inside = (_U > u) & (_U < u + rng.uniform(0.1, 0.6)) & (_V > v) & (_V < v + rng.uniform(0.03, 0.5))
        second, third = np.where(inside, rng.random(), second), np.where(inside, rng.random(), third)
    return _mix(np.clip(second + 0.4 * (_noise(rng, 1.6) - 0.5), 0, 1), third)


def _books(rng: Random) -> Array:
    """Spines side by side along u, with bands for titles."""
    second, third, u = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE)), 0.0
    while u < 1:
        width = rng.uniform(0.025, 0.07)
        inside = (_U >= u) & (_U < u + width)
        a, b = rng.random(2) * (rng.random(2) < 0.7)
        band = (np.abs(_V - rng.uniform(0.2, 0.8)) < rng.uniform(0.02, 0.12)) * rng.uniform(-0.6, 0.6)
        across = 1 - np.abs((_U - u) / width * 2 - 1) ** 4
        second = np.where(inside, np.clip(a + band, 0, 1) * across, second)
        third = np.where(inside, np.clip(b - band, 0, 1) * across, third)
        u += width
    return _mix(second, third)


def _outdoors(rng: Random) -> Array:
    """Seen through a window: sky above, then trees or houses."""
    skyline = rng.uniform(0.35, 0.75) + 0.35 * (_noise(rng, 1.7, (1, 40)) - 0.5)
    if rng.random() < 0.5:
        skyline = rng.uniform(0.2, 0.7, 12)[np.floor(_U * 12).astype(int)]
    land = _step(_V, 0.0, 0.01) * _step(_V - skyline, 0.0, 0.02)
    return _mix(np.clip(0.5 * _noise(rng, 1.5), 0, 1), land * (0.55 + 0.45 * _noise(rng, 1.0)))


def _panel(rng: Random) -> Array:
    """A door leaf with panels, or a flat one with a faint grain."""
    second, third = 0.5 * _noise(rng, 1.3, (1, 8)), np.zeros((SIZE, SIZE))
    columns, rows = int(rng.integers(1, 3)), int(rng.integers(0, 4))
    for row in range(rows):
        for column in range(columns):
            u = np.abs(_U * columns - column - 0.5) - 0.33
            v = np.abs(_V * rows - row - 0.5) - 0.38
            third = np.maximum(third, (np.abs(np.maximum(u * rows / columns, v)) < 0.015) * 0.9)
    return _mix(second, third)


def _ceiling(rng: Random) -> Array:
    u, v, _ = _cells(rng, 2, 2)
    return _mix(_step(_noise(rng, 0.3), 0.62, 0.2) * 0.7, _gap(u, v, 0.012, 0.012))


def _slats(rng: Random) -> Array:
    v = (_V * 16) % 1
    return _mix(np.clip(1.2 * np.abs(v - 0.4), 0, 1), _step(v, 0.86, 0.1))


_PAINTERS: dict[str, tuple[Callable[[Random], Array], int]] = {
    "plain": (_plain, 2),
    "plaster": (_plaster, 2),
    "wood": (_wood, 4),
    "planks": (_planks, 3),
    "tiles": (_tiles, 2),
    "checkered": (_checkered, 1),
    "bricks": (_bricks, 2),
    "carpet": (_carpet, 2),
    "weave": (_weave, 3),
    "stripes": (_stripes, 4),
    "plaid": (_plaid, 3),
    "floral": (_floral, 4),
    "dots": (_dots, 2),
    "granite": (_granite, 2),
    "marble": (_marble, 2),
    "leather": (_leather, 2),
    "rug": (_rug, 5),
    "picture": (_picture, 12),
    "page": (_page, 5),
    "screen": (_screen, 4),
    "books": (_books, 5),
    "outdoors": (_outdoors, 5),
    "panel": (_panel, 5),
    "ceiling": (_ceiling, 1),
    "slats": (_slats, 1),
}

LAYERS: dict[str, list[int]] = {}
"""Layers of the atlas by name."""
for _name, (_, _count) in _PAINTERS.items():
    _first = sum(len(v) for v in LAYERS.values())
    LAYERS[_name] = list(range(_first, _first + _count))


@dataclass
class Atlas:
    """All textures with their mipmaps in one table of texels (N, 3)."""

    texels: Tensor
    bases: Tensor
    """(LEVELS,), the first texel of each level."""

    @staticmethod
    def paint(device: torch.device | str, seed: int = 7) -> Atlas:
        """All textures; the same for the same seed."""
        texels, bases = _painted(seed)
        return Atlas(torch.from_numpy(texels).to(device), torch.from_numpy(bases).to(device))

    def look_up(self, layer: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
        """Shares of the three colours (..., 3) at u, v (in textures) of a layer; level is log2 of texels a pixel."""
        level = level.round().clamp(0, LEVELS - 1).to(torch.int64)
        size = torch.bitwise_right_shift(torch.full_like(level, SIZE), level)
        base = self.bases[level] + layer * size * size
        x = (u - u.floor()) * size - 0.5
        y = (v - v.floor()) * size - 0.5
        x0, y0 = x.floor(), y.floor()
        wx, wy = (x - x0).unsqueeze(-1), (y - y0).unsqueeze(-1)
        left, top = x0.to(torch.int64) % size, y0.to(torch.int64) % size
        right, bottom = (left + 1) % size, (top + 1) % size
        upper = torch.lerp(self.texels[base + top * size + left], self.texels[base + top * size + right], wx)
        lower = torch.lerp(self.texels[base + bottom * size + left], self.texels[base + bottom * size + right], wx)
        return torch.lerp(upper, lower, wy)


@lru_cache(maxsize=1)
def _painted(seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Texels and bases of an atlas; painting takes a second, so it is done once."""
    rng = np.random.default_rng(seed)
    level = np.stack([painter(rng) for painter, count in _PAINTERS.values() for _ in range(count)])
    levels = []
    for _ in range(LEVELS):
        levels.append(level.reshape(-1, 3).astype(np.float32))
        if level.shape[1] > 1:
            n, h, w, c = level.shape
            level = level.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    bases = np.cumsum([0] + [len(x) for x in levels[:-1]])
    return np.concatenate(levels), bases
