"""People of the rendered world: heads, trunks and limbs of balls and rods that stand, sit or walk to and fro."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_casting import BALL, CAPSULE
from mila_ros.worlds.rendered_paths import FloorPlan
from mila_ros.worlds.rendered_scene import Scene

Array = npt.NDArray[np.float64]
Random = np.random.Generator

PAUSE = 1.2
"""Seconds in which a walker turns round at the end of the way."""


@dataclass
class Person:
    """Someone who walks between two places, or stays at the first.

    Attributes:
        start: x, y of one end of the way.
        end: x, y of the other; the same for somebody who stays.
        yaw: where somebody who stays looks.
        tall: height in metres.
        speed: metres a second.
        phase: seconds on the way at time 0.
        seat: height of the seat in metres; 0 stands.
        first: number of the first solid.
    """

    start: Array
    end: Array
    yaw: float
    tall: float
    speed: float
    phase: float
    seat: float = 0.0
    first: int = 0
    shapes: list[tuple[int, float]] = field(default_factory=list)
    """Kind and shape of each solid, known after the first call of `maps`."""

    def maps(self, times: Array) -> list[Array]:
        """Unit space to world, (T, 3, 4) for each solid, at times in seconds."""
        position, yaw, swing, stride = self._gait(np.asarray(times, np.float64) + self.phase)
        s = self.tall
        thigh, shin, arm, forearm = 0.245 * s, 0.235 * s, 0.17 * s, 0.15 * s
        hip_height = self.seat + 0.06 if self.seat else 0.52 * s - 0.02 * s * np.abs(stride)
        solids: list[tuple[int, Array, float]] = []

        def at(x: float | Array, y: float | Array, z: float | Array) -> Array:
            return np.stack(np.broadcast_arrays(x, y, z, 0.0 * yaw)[:3], -1).astype(np.float64)

        def rod(a: Array, b: Array, radius: float) -> None:
            axis = b - a
            length = np.linalg.norm(axis, axis=-1, keepdims=True)
            z = axis / length
            x = np.cross(np.array([1.0, 0.02, 0.03]), z)
            x /= np.linalg.norm(x, axis=-1, keepdims=True)
            turn = np.stack((x, np.cross(z, x), z), -1)
            solids.append(
                (
                    CAPSULE,
                    np.concatenate((turn * radius, ((a + b) / 2)[..., None]), -1),
                    0.5 * float(length[0, 0]) / radius,
                )
            )

        def ball(centre: Array, size: tuple[float, float, float]) -> None:
            linear = np.broadcast_to(np.diag(np.array(size) / 2), (len(yaw), 3, 3))
            solids.append((BALL, np.concatenate((linear, centre[..., None]), -1), 0.0))

        # The body's own frame: x to its left side, y ahead, z up.
        chest = hip_height + 0.2 * s
        shoulder = hip_height + 0.29 * s
        ball(at(0, 0.01, shoulder + 0.138 * s), (0.093 * s, 0.12 * s, 0.145 * s))
        ball(at(0, -0.008 * s, shoulder + 0.158 * s), (0.103 * s, 0.125 * s, 0.13 * s))
        rod(at(0, 0, shoulder), at(0, 0, shoulder + 0.09 * s), 0.032 * s)
        ball(at(0, 0, chest), (0.215 * s, 0.145 * s, 0.28 * s))
        rod(at(-0.07 * s, 0, shoulder - 0.025 * s), at(0.07 * s, 0, shoulder - 0.025 * s), 0.05 * s)
        ball(at(0, 0, hip_height + 0.04 * s), (0.2 * s, 0.145 * s, 0.22 * s))
        for side in (-1.0, 1.0):
            move = side * swing
            if self.seat:
                hip, knee_bend = np.full_like(yaw, 1.45), np.full_like(yaw, 1.4)
            else:
                hip, knee_bend = 0.42 * move, 0.15 + 0.45 * np.clip(-side * stride, 0, 1) * (np.abs(stride) > 0)
            a = at(side * 0.055 * s, 0, hip_height)
            b = a + at(0, thigh * np.sin(hip), -thigh * np.cos(hip))
            c = b + at(0, shin * np.sin(hip - knee_bend), -shin * np.cos(hip - knee_bend))
            rod(a, b, 0.05 * s)
            rod(b, c, 0.036 * s)
            ball(c + at(0, 0.05, -0.025), (0.095, 0.27, 0.1))
            reach = np.full_like(yaw, 0.5) if self.seat else -0.4 * move
            a = at(side * 0.125 * s, 0, shoulder - 0.03 * s)
            b = a + at(side * 0.025 * s, arm * np.sin(reach), -arm * np.cos(reach))
            c = b + at(-side * 0.01, forearm * np.sin(reach + 0.35), -forearm * np.cos(reach + 0.35))
            rod(a, b, 0.03 * s)
            rod(b, c, 0.024 * s)
            ball(c + at(0, 0.02, -0.03), (0.05, 0.08, 0.1))
        self.shapes = [(kind, shape) for kind, _, shape in solids]
        turn = np.zeros((len(yaw), 3, 3))
        turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = np.sin(yaw), np.cos(yaw), -np.cos(yaw), np.sin(yaw)
        turn[:, 2, 2] = 1
        result = []
        for _, local, _ in solids:
            world = turn @ local
            world[:, :2, 3] += position
            result.append(world)
        return result

    def _gait(self, t: Array) -> tuple[Array, Array, Array, Array]:
        """Position (T, 2), heading, swing of the left leg and its speed, both in -1..1, at seconds on the way."""
        way = self.end - self.start
        length = float(np.linalg.norm(way))
        if length < 0.1:
            return np.tile(self.start, (len(t), 1)), self.yaw + 0.15 * np.sin(0.5 * t), 0.03 * np.sin(t), 0.0 * t
        leg = length / self.speed
        lap = 2 * (leg + PAUSE)
        s = t % lap
        back = s >= lap / 2
        s = np.where(back, s - lap / 2, s)
        walked = np.clip(s, 0, leg) * self.speed
        share = np.where(back, 1 - walked / length, walked / length)
        ahead = np.arctan2(way[1], way[0])
        turned = np.clip((s - leg) / PAUSE, 0, 1)
        turned = turned * turned * (3 - 2 * turned)
        yaw = ahead + np.pi * (back + turned)
        ease = np.clip(np.minimum(walked, length - walked) / 0.25, 0, 1)
        phase = 2 * np.pi * walked / (0.78 * self.tall)
        return self.start + share[:, None] * way, yaw, ease * np.sin(phase), ease * np.cos(phase)


def dress(scene: Scene, person: Person, rng: Random, clothes: tuple[mat.Material, mat.Material] | None = None) -> None:
    """Adds a person's solids to a scene: skin, hair, and clothes: shirt and trousers, or random ones; shoes."""
    b = scene.builder
    person.first = len(b.kinds)
    maps = person.maps(np.zeros(1))
    skin = mat.skin(rng)
    shirt, trousers = clothes or (mat.fabric(rng, plain=0.7), mat.fabric(rng, plain=0.9))
    hair = mat.paint(rng, mat.hsv(rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.7), rng.uniform(0.08, 0.5)))
    shoes, sleeve = mat.paint(rng), shirt if rng.random() < 0.6 else skin
    side = [trousers, trousers, shoes, shirt, sleeve, skin]
    for (kind, shape), forward, row in zip(
        person.shapes, maps, [skin, hair, skin, shirt, shirt, trousers, *side, *side], strict=True
    ):
        b.add_moving(kind, forward[0], shape, row, "person")
    scene.walkers.append(person)


def add_people(rng: Random, scene: Scene, count: int) -> None:
    """People who walk or stand where there is room, and whose ways the camera will keep clear of."""
    for _ in range(count):
        plan = FloorPlan(scene)
        x, y = plan.somewhere(rng, 0.35)
        if float(plan.at(x, y)) < 0.3:
            continue
        start = end = np.array([x, y])
        if rng.random() < 0.7:
            angle = rng.uniform(0, 2 * np.pi, 12)
            reach = np.arange(0.1, 3.5, 0.1)
            clear = np.minimum.accumulate(
                plan.at(x + np.cos(angle)[:, None] * reach, y + np.sin(angle)[:, None] * reach), 1
            )
            steps = (clear > 0.3).sum(1)
            best = int(steps.argmax())
            if steps[best] > 8:
                end = start + reach[steps[best] - 1] * np.array([np.cos(angle[best]), np.sin(angle[best])])
        person = Person(
            start, end, rng.uniform(-np.pi, np.pi), rng.uniform(1.5, 1.9), rng.uniform(0.5, 1.3), rng.uniform(0, 10)
        )
        dress(scene, person, rng)
        for share in np.linspace(0, 1, 8):
            cx, cy = start + share * (end - start)
            scene.footprints.append((cx - 0.25, cy - 0.25, cx + 0.25, cy + 0.25, 0.0, person.tall))
