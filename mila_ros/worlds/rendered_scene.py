"""A scene of the rendered world: solids with a material and a label each, lights, and the free floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.rendered_casting import BALL, BOX, CAPSULE, COLUMN
from mila_ros.worlds.rendered_materials import Material

Array = npt.NDArray[np.float64]
Vector = tuple[float, float, float]

LABELS = {name.replace(" ", "_"): number for number, name in enumerate(load_labels("nyu40").classes)}
LABELS["otherprop"] = 255
"""NYU-40 ids, zero-based; small things without a class of their own are ignored, as in NYUv2."""


def turn_z(yaw: float) -> Array:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def turn_x(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def along(a: Array, b: Array) -> tuple[Array, float]:
    """A rotation whose z axis points from a to b, and their distance."""
    axis = b - a
    length = float(np.linalg.norm(axis))
    z = axis / max(length, 1e-9)
    x = np.cross((1.0, 0.0, 0.0) if abs(z[0]) < 0.8 else (0.0, 1.0, 0.0), z)
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(z, x), z), 1), length


@dataclass
class Light:
    """A lamp or a window that throws light.

    Attributes:
        position: metres in the world.
        radius: half of its size, which makes its shadows soft.
        power: radiant intensity of each colour, linear.
        towards: where it shines; zero for all around.
        shadows: whether it throws shadows.
    """

    position: Array
    radius: float
    power: Array
    towards: Array = field(default_factory=lambda: np.zeros(3))
    shadows: bool = True


class Builder:
    """Collects solids in a movable frame: x right, y to the front, z up; the front of furniture is +y."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.forward: list[Array] = []
        self.shapes: list[float] = []
        self.materials: list[Material] = []
        self.labels: list[int] = []
        self.casts: list[bool] = []
        self.rotation = np.eye(3)
        self.origin = np.zeros(3)

    def place(self, position: Vector | Array, yaw: float) -> None:
        """Moves the frame: the next solids stand at position (world), turned by yaw."""
        self.rotation, self.origin = turn_z(yaw), np.asarray(position, np.float64)

    def world(self, point: Vector | Array) -> Array:
        """A point of the frame in the world."""
        return self.rotation @ np.asarray(point) + self.origin

    def _add(
        self,
        kind: int,
        centre: Vector | Array,
        half: Vector | Array,
        row: Material,
        label: str,
        turn: Array | None = None,
        shape: float = 0.0,
        casts: bool = True,
    ) -> None:
        forward = np.empty((3, 4))
        rotation = self.rotation if turn is None else self.rotation @ turn
        forward[:, :3] = rotation * np.maximum(np.asarray(half), 1e-4)
        forward[:, 3] = self.rotation @ np.asarray(centre) + self.origin
        self.kinds.append(kind)
        self.forward.append(forward)
        self.shapes.append(shape)
        self.materials.append(row)
        self.labels.append(LABELS[label])
        self.casts.append(casts)

    def box(
        self, centre: Vector, size: Vector, row: Material, label: str, turn: Array | None = None, casts: bool = True
    ) -> None:
        """A box by its middle and its full sizes."""
        self._add(BOX, centre, np.asarray(size) / 2, row, label, turn=turn, casts=casts)

    def ball(self, centre: Vector, size: Vector, row: Material, label: str, turn: Array | None = None) -> None:
        """An ellipsoid by its middle and its full sizes."""
        self._add(BALL, centre, np.asarray(size) / 2, row, label, turn=turn)

    def column(
        self,
        centre: Vector,
        size: Vector,
        row: Material,
        label: str,
        taper: float = 0.0,
        turn: Array | None = None,
        casts: bool = True,
    ) -> None:
        """An upright column by its middle and full sizes; taper > 0 makes it wider above."""
        self._add(COLUMN, centre, np.asarray(size) / 2, row, label, shape=taper, turn=turn, casts=casts)

    def capsule(self, a: Vector | Array, b: Vector | Array, radius: float, row: Material, label: str) -> None:
        """A rod with round ends between two points."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        turn, length = along(a, b)
        self._add(CAPSULE, (a + b) / 2, (radius,) * 3, row, label, turn=turn, shape=0.5 * length / radius)

    def add_moving(self, kind: int, forward: Array, shape: float, row: Material, label: str) -> None:
        """A solid by its map (3, 4) to the world, for what a `Walker` moves."""
        self.kinds.append(kind)
        self.forward.append(forward)
        self.shapes.append(shape)
        self.materials.append(row)
        self.labels.append(LABELS[label])
        self.casts.append(True)


class Walker(Protocol):
    """Something that moves through a scene."""

    first: int
    """Number of its first solid in the builder; the others follow."""

    def maps(self, times: Array) -> list[Array]:
        """Unit space to world, (T, 3, 4) for each of its solids, at times in seconds."""
        ...


@dataclass
class Scene:
    """What a clip shows, in numpy; `pack` in the world puts several on a device.

    Attributes:
        builder: the solids.
        lights: what lights it.
        ambient: (3,), light from everywhere.
        size: x, y, z of the room, metres; its floor is centred on the origin.
        footprints: rows x0, y0, x1, y1, z0, z1 of what stands in the room.
        walkers: what moves; each says where its solids are at given times.
    """

    builder: Builder
    lights: list[Light]
    ambient: Array
    size: Array
    footprints: list[tuple[float, ...]]
    walkers: list[Walker] = field(default_factory=list)

    def moving(self, times: Array) -> list[tuple[int, list[Array]]]:
        """For each walker the number of its first solid, and the maps (T, 3, 4) of its solids at times (T,)."""
        return [(walker.first, walker.maps(times)) for walker in self.walkers]
