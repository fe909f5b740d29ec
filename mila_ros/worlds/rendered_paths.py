"""Camera paths of the rendered world: a ground robot that rolls, a hand that wanders, both clear of the furniture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.worlds.rendered_scene import Scene

Array = npt.NDArray[np.float64]
Random = np.random.Generator
CELL = 0.05
"""Metres of a cell of the floor plan."""


class FloorPlan:
    """How far each place of the floor is from the next obstacle."""

    def __init__(self, scene: Scene, height: float = 0.0) -> None:
        """height: obstacles lower than this don't count, as for a camera that is carried above them."""
        x, y, _ = scene.size
        columns, rows = max(3, int(x / CELL)), max(3, int(y / CELL))
        free = np.zeros((rows + 2, columns + 2), np.uint8)
        free[1:-1, 1:-1] = 1
        for x0, y0, x1, y1, _, top in scene.footprints:
            if top <= height:
                continue
            a, b = int((x0 + x / 2) / CELL), int(np.ceil((x1 + x / 2) / CELL))
            c, d = int((y0 + y / 2) / CELL), int(np.ceil((y1 + y / 2) / CELL))
            free[max(c + 1, 0) : max(d + 1, 0), max(a + 1, 0) : max(b + 1, 0)] = 0
        self.half = np.array([x / 2, y / 2])
        self.clearance = cv2.distanceTransform(free, cv2.DIST_L2, 5)[1:-1, 1:-1] * CELL

    def at(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Metres to the next obstacle, 0 inside one and outside of the room."""
        rows, columns = self.clearance.shape
        i = np.floor((np.asarray(y) + self.half[1]) / CELL).astype(int)
        j = np.floor((np.asarray(x) + self.half[0]) / CELL).astype(int)
        inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
        return np.where(inside, self.clearance[i.clip(0, rows - 1), j.clip(0, columns - 1)], 0.0)

    def somewhere(self, rng: Random, margin: float) -> tuple[float, float]:
        """A random free place; the freest one where there is none with that margin."""
        good = np.argwhere(self.clearance > margin)
        if len(good) == 0:
            good = np.argwhere(self.clearance >= self.clearance.max())
        i, j = good[rng.integers(len(good))]
        return (j + 0.5) * CELL - self.half[0], (i + 0.5) * CELL - self.half[1]


def _smooth(rng: Random, count: int, seconds: float, rate: float, size: tuple[int, ...] = ()) -> Array:
    """Smooth random curves (count, *size) of unit standard deviation that change within so many seconds."""
    knots = rng.standard_normal((int(count / rate / seconds) + 5, *size))
    at = np.arange(count) / rate / seconds + 1 + rng.random()
    i, s = at.astype(int), at % 1
    s = s.reshape(-1, *([1] * len(size)))
    p0, p1, p2, p3 = (knots[np.minimum(i + k, len(knots) - 1)] for k in (-1, 0, 1, 2))
    cubic = p1 + 0.5 * s * (p2 - p0 + s * (2 * p0 - 5 * p1 + 4 * p2 - p3 + s * (3 * (p1 - p2) + p3 - p0)))
    return np.asarray(cubic)


def optical_pose(position: Array, yaw: Array, pitch: Array, roll: Array) -> Array:
    """Camera-to-world poses (T, 4, 4) of the optical frame; pitch > 0 looks down, yaw counts from the x axis."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.stack((cy * cp, sy * cp, -sp), -1)
    right = np.stack((sy, -cy, np.zeros_like(yaw)), -1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    pose = np.tile(np.eye(4), (len(yaw), 1, 1))
    pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2] = c * right + s * down, c * down - s * right, forward
    pose[:, :3, 3] = position
    return pose


def drive(
    rng: Random, plan: FloorPlan, start: tuple[float, float, float], count: int, rate: float, margin: float
) -> tuple[Array, Array]:
    """A wheeled robot that wanders from x, y, heading: positions (T, 2) and headings (T,)."""
    x, y, heading = start
    cruise, speed, turn, wish = rng.uniform(0.2, 0.8), 0.0, 0.0, 0.0
    speed = cruise
    rates = np.radians(np.array([-40, -25, -12, -4, 4, 12, 25, 40]))
    steps = np.arange(1, 9) * 0.2
    path, headings = np.empty((count, 2)), np.empty(count)
    every = max(1, round(rate * 0.2))
    for t in range(count):
        if t % every == 0:
            arc = heading + rates[:, None] * steps
            px = x + np.cumsum(np.cos(arc), 1) * 0.2 * max(speed, 0.25)
            py = y + np.cumsum(np.sin(arc), 1) * 0.2 * max(speed, 0.25)
            safe = np.minimum.accumulate(plan.at(px, py), 1)
            length = (safe > margin).sum(1)
            best = int((length + 1.5 * np.minimum(safe[:, -1], 1) - 1.2 * np.abs(rates - wish)).argmax())
            turn_to, speed_to = rates[best], cruise * np.clip((length[best] - 1) / 5, 0, 1)
            if rng.random() < 0.1:
                wish = float(rng.choice(rates))
        turn += np.clip(turn_to - turn, -2.0 / rate, 2.0 / rate)
        speed += np.clip(speed_to - speed, -1.2 / rate, 0.8 / rate)
        heading += turn / rate
        nx, ny = x + np.cos(heading) * speed / rate, y + np.sin(heading) * speed / rate
        if plan.at(nx, ny) > margin * 0.6:
            x, y = nx, ny
        else:
            speed = 0.0
        path[t], headings[t] = (x, y), heading
    return path, headings


def camera_path(rng: Random, scene: Scene, count: int, rate: float) -> Array:
    """Poses (T, 4, 4) of a camera that moves through a scene at `rate` frames a second, camera (optical) to world."""
    ceiling = scene.size[2]
    if rng.random() < 0.45:
        height = rng.uniform(0.3, 1.2)
        plan = FloorPlan(scene)
        path, heading = drive(rng, plan, _viewpoint(rng, scene, plan, 0.35), count, rate, 0.28)
        shake = 0.0015 * _smooth(rng, count, 0.08, rate, (3,))
        z = np.full(count, height) + shake[:, 0]
        offset = rng.choice([0.0, rng.normal(0, 0.6)])
        yaw, pitch, roll = heading + offset + shake[:, 1], rng.normal(0.05, 0.12) + shake[:, 2], np.zeros(count)
    else:
        height = min(rng.uniform(0.9, 1.7), ceiling - 0.4)
        plan = FloorPlan(scene, height - 0.25)
        x, y, look = _viewpoint(rng, scene, plan, 0.35)
        path, heading = drive(rng, plan, (x, y, look + rng.normal(0, 1.0)), count, rate, 0.25)
        path = path[0] + rng.uniform(0.4, 1.0) * (path - path[0])
        path = path + 0.02 * _smooth(rng, count, 0.5, rate, (2,))
        z = height + 0.06 * _smooth(rng, count, 1.2, rate) + 0.004 * _smooth(rng, count, 0.15, rate)
        slow, fast = (
            np.radians(18) * _smooth(rng, count, 2.0, rate, (2,)),
            np.radians(0.6) * _smooth(rng, count, 0.2, rate, (3,)),
        )
        share = rng.uniform(0, 1)
        yaw = look + share * (heading - heading[0]) + slow[:, 0] - slow[0, 0] + fast[:, 0]
        pitch = rng.normal(0.22, 0.15) + 0.5 * slow[:, 1] + fast[:, 1]
        roll = np.radians(3) * _smooth(rng, count, 2.0, rate) + fast[:, 2]
    position = np.concatenate((path, z[:, None]), 1)
    return optical_pose(position, np.asarray(yaw), np.broadcast_to(pitch, (count,)), roll)


def _interest(scene: Scene, x: Array, y: Array, yaw: Array) -> Array:
    """How much there is to see from places in directions, (N,): furniture within reach, and no wall at the nose."""
    c, s = np.cos(yaw), np.sin(yaw)
    half = scene.size[:2] / 2
    wall = np.minimum(
        np.where(np.abs(c) > 1e-6, (np.sign(c) * half[0] - x) / c, np.inf),
        np.where(np.abs(s) > 1e-6, (np.sign(s) * half[1] - y) / s, np.inf),
    )
    score = 0.5 * np.exp(-(((wall - 3.4) / 1.3) ** 2)) - 1.5 * (wall < 1.6)
    for x0, y0, x1, y1, _, top in scene.footprints:
        if top < 0.15:
            continue
        dx, dy = (x0 + x1) / 2 - x, (y0 + y1) / 2 - y
        ahead, aside = c * dx + s * dy, c * dy - s * dx
        size = 0.5 * np.hypot(x1 - x0, y1 - y0) * min(top, 1.2)
        inside = (ahead > 1.0) & (np.abs(aside) < 0.5 * ahead + 0.2)
        score = score + np.where(inside, size / np.maximum(ahead, 1.2), 0.0)
    return np.asarray(score)


def _viewpoint(rng: Random, scene: Scene, plan: FloorPlan, margin: float) -> tuple[float, float, float]:
    """x, y, yaw of the best of a few random views: people and robots seldom stare at a bare wall."""
    count = int(rng.choice([3, 10, 24]))
    places = np.array([plan.somewhere(rng, margin) for _ in range(count)])
    yaw = rng.uniform(-np.pi, np.pi, count)
    best = int(_interest(scene, places[:, 0], places[:, 1], yaw).argmax())
    return float(places[best, 0]), float(places[best, 1]), float(yaw[best])
