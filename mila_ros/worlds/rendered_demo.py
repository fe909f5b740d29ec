"""The room of the bundled clip: a living room with a kitchen along one wall, arranged by hand, in which somebody
walks, and a camera that goes round and comes back to where it started.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mila_ros.worlds import rendered_fittings as fit
from mila_ros.worlds import rendered_furniture as fur
from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_paths import optical_pose
from mila_ros.worlds.rendered_people import PAUSE, Person, dress
from mila_ros.worlds.rendered_rooms import Room, Wall
from mila_ros.worlds.rendered_scene import Light, Scene

LOOP = 9.0
"""Seconds after which everything is where it was."""

Array = npt.NDArray[np.float64]
Random = np.random.Generator


def demo_scene(seed: int = 0) -> Scene:
    """The room; the seed changes colours, sizes and small things, not what stands where."""

    def rng(number: int) -> Random:
        return np.random.default_rng([seed, number])

    room = Room(rng(0), "living", (5.4, 6.6, 2.6))
    room.daylight = 0.7
    pale = mat.hsv(0.12, 0.1, 0.9)
    paint = mat.material(rng(1), "plain", [pale * 0.97, pale * 1.03], 1.5)
    blue = mat.hsv(0.53, 0.25, 0.66)
    room.papers = [paint, paint, mat.material(rng(1), "plain", [blue * 0.95, blue * 1.05], 1.5), paint]
    tone = mat.hsv(0.07, 0.45, 0.62)
    room.ground = mat.material(rng(2), "planks", [tone * 1.08, tone * 0.88, tone * 0.5], 1.6, swap=True, gloss=0.08)
    room.skirting = mat.paint(rng(3), mat.hsv(0.1, 0.05, 0.9))
    south, _, north, west = room.walls
    room.rng = rng(4)
    _window(room, north, 1.25, 1.7)
    room.door(west, 0.2, 0.9)
    room.shell()

    def against(
        wall: Wall, x: float, piece: fur.Piece, clutter: float = 0.0, number: int = 0, lamp: float = 0.0
    ) -> None:
        room.b.place(wall.middle, wall.yaw)
        spot = room.b.world((x, piece.depth / 2 + 0.03, 0))
        room.rng = rng(100 + number)
        room.put(piece, (float(spot[0]), float(spot[1])), wall.yaw, -0.5)
        if clutter:
            room.clutter(piece, clutter, lamp)

    def hang(wall: Wall, thing: Callable[[], None]) -> None:
        room.b.place(wall.middle, wall.yaw)
        thing()

    against(south, -0.9, fit.kitchen(rng(10), 3.5), 0.9, 10)
    against(west, -1.7, fur.sofa(rng(11), 2), 0, 11)
    b = room.b
    fit.rug(b, rng(12), 0.1, 1.05, 2.3, 1.6, 0.03)
    low = fur.table(rng(13), low=True)
    spot = b.world((0.05, 1.05, 0))
    room.rng = rng(14)
    room.put(low, (float(spot[0]), float(spot[1])), west.yaw, -0.5)
    room.clutter(low, 1.6)
    against(west, 1.55, fur.bookshelf(rng(15)), 0.6, 15)
    against(north, -1.1, fur.television(rng(16)), 0.6, 16)
    against(north, 2.35, fit.potted(rng(17)), 0, 17)
    against(west, -2.95, fit.floor_lamp(rng(18)), 0, 18)
    hang(west, lambda: fit.picture(b, rng(20), -2.0, 1.65, 0.8))
    hang(west, lambda: fit.picture(b, rng(21), -1.2, 1.6, 0.6))
    hang(north, lambda: fit.picture(b, rng(22), 0.0, 1.6, 0.7))
    hang(west, lambda: fit.notices(b, rng(23), 0.95, 0.35))
    dining = fur.table(rng(24))
    room.rng = rng(25)
    at = (-1.15, -1.25)
    room.put(dining, at, 0.04, -0.5)
    room.clutter(dining, 0.7)
    room.seat_around(at, 0.04, dining, 1.0)
    for number, (piece, x, y) in enumerate(
        ((fit.carton(rng(26)), 0.45, 2.95), (fit.bag(rng(27)), -0.05, -0.4), (fit.bin_(rng(28)), 1.15, -2.9))
    ):
        room.rng = rng(30 + number)
        room.put(piece, (x, y), 0.5 * number, -0.5)

    room.rng = rng(40)
    _ceiling_lamp(room, rng(41))
    scene = Scene(
        b,
        room.lights,
        sum(light.power for light in room.lights) / 30.0 * np.array([0.62, 0.6, 0.58]),
        room.size,
        room.taken,
    )
    start, end = np.array([-2.1, 0.1]), np.array([-0.75, 0.15])
    # There, a turn, back, and a turn: once a loop.
    speed = float(np.linalg.norm(end - start)) / (LOOP / 2 - PAUSE)
    walker = Person(start, end, 0.0, 1.74, speed, 0.6)
    clothes = (mat.fabric(rng(42), mat.hsv(0.6, 0.45, 0.55), 1.0), mat.fabric(rng(43), mat.hsv(0.1, 0.15, 0.25), 1.0))
    dress(scene, walker, rng(44), clothes)
    return scene


def _window(room: Room, wall: Wall, x: float, width: float) -> None:
    wall.taken.append((x - width / 2, x + width / 2))
    room.window(wall, x, width)


def _ceiling_lamp(room: Room, rng: Random) -> None:
    b, h = room.b, float(room.size[2])
    b.place((0, 0, 0), 0)
    warm = mat.hsv(0.1, 0.2, 1.0)
    b.capsule((0.1, -0.3, h), (0.1, -0.3, h - 0.45), 0.01, mat.metal(rng), "lamp")
    b.column((0.1, -0.3, h - 0.5), (0.42, 0.42, 0.2), mat.glowing(rng, warm, 2.5), "lamp", taper=-0.35, casts=False)
    room.lights.append(Light(np.array([0.1, -0.3, h - 0.62]), 0.2, 4.0 * warm))


def demo_path(times: Array) -> Array:
    """Poses (T, 4, 4) of the camera at times in seconds, camera (optical) to world."""
    turn = 2 * math.pi * np.asarray(times) / LOOP
    position = np.stack(
        (
            1.35 + 0.45 * np.cos(turn),
            -0.2 + 0.95 * np.sin(turn),
            1.28 + 0.05 * np.sin(2 * turn) + 0.004 * np.sin(17 * turn),
        ),
        -1,
    )
    yaw = np.radians(163) - np.radians(42) * np.cos(turn + 2.0) + np.radians(0.4) * np.sin(13 * turn)
    pitch = np.radians(13) + np.radians(4) * np.sin(turn + 0.5) + np.radians(0.3) * np.sin(19 * turn)
    roll = np.radians(0.8) * np.sin(3 * turn)
    return optical_pose(position, yaw, pitch, roll)
