"""Rooms of the rendered world: walls with doors and windows, lights, and furniture that stands where it would."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from mila_ros.worlds import rendered_fittings as fit
from mila_ros.worlds import rendered_furniture as fur
from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_scene import Builder, Light, Scene

Random = np.random.Generator
KINDS = ("living", "bedroom", "kitchen", "office", "dining", "study", "bathroom", "classroom", "corridor", "store")
_SHARES = (0.2, 0.2, 0.15, 0.12, 0.09, 0.06, 0.07, 0.04, 0.04, 0.03)

_LOFTY = 0.3
"""Share of rooms that are large and high."""
_THICK = 0.15
_BEYOND = 4.0
"""Metres of dim space behind the walls, seen through open doors."""


@dataclass
class Wall:
    """One wall: its frame stands at the middle of its foot, +y into the room."""

    middle: np.ndarray
    yaw: float
    length: float
    openings: list[tuple[float, float, float, float]] = field(default_factory=list)
    taken: list[tuple[float, float]] = field(default_factory=list)
    """Stretches of the wall, in x, that something hangs on or stands at, above the furniture."""

    def room_for(self, rng: Random, width: float, margin: float = 0.1) -> float | None:
        """A free place for something of a width, or None."""
        for _ in range(8):
            limit = self.length / 2 - width / 2 - margin
            if limit <= 0:
                return None
            x = float(rng.uniform(-limit, limit))
            if all(x + width / 2 + margin < a or x - width / 2 - margin > b for a, b in self.taken):
                self.taken.append((x - width / 2, x + width / 2))
                return x
        return None


class Room:
    """A room while it is being furnished."""

    def __init__(self, rng: Random, kind: str, size: tuple[float, float, float] | None = None) -> None:
        self.rng, self.kind, self.b = rng, kind, Builder()
        if size is not None:
            self.size = np.array(size)
        elif kind == "corridor":
            self.size = np.array([rng.uniform(1.5, 2.4), rng.uniform(6, 12), rng.uniform(2.3, 2.9)])
        elif kind == "bathroom":
            self.size = np.array([rng.uniform(2.2, 3.4), rng.uniform(2.4, 3.8), rng.uniform(2.3, 2.7)])
        else:
            self.size = np.array([rng.uniform(3.0, 6.0), rng.uniform(3.2, 7.2), rng.uniform(2.3, 3.0)])
            if rng.random() < _LOFTY:  # lofts, shops, lobbies: else nothing far is learned but corridors
                self.size *= rng.uniform(1.3, 2.0, 3)
        x, y, _ = self.size
        self.walls = [
            Wall(np.array([0, -y / 2, 0]), 0.0, x),
            Wall(np.array([x / 2, 0, 0]), math.pi / 2, y),
            Wall(np.array([0, y / 2, 0]), math.pi, x),
            Wall(np.array([-x / 2, 0, 0]), -math.pi / 2, y),
        ]
        self.taken: list[tuple[float, ...]] = []
        self.lights: list[Light] = []
        self.daylight = float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.35, 0.65]))
        main = mat.wall(rng)
        accent, accented = mat.wall(rng), int(rng.integers(0, 12))
        self.papers = [accent if number == accented else main for number in range(4)]
        self.ground, self.top = mat.floor(rng), mat.ceiling(rng)
        self.skirting = mat.paint(rng, mat.hsv(0.1, 0.1, rng.uniform(0.2, 0.95))) if rng.random() < 0.7 else None

    # --- the shell -----------------------------------------------------------------------------------------------

    def shell(self) -> None:
        """Floor, ceiling, and walls around the openings that are there."""
        b, skirting = self.b, self.skirting
        x, y, h = self.size
        far_x, far_y = x + 2 * _BEYOND, y + 2 * _BEYOND
        b.place((0, 0, 0), 0)
        b.box((0, 0, -0.1), (far_x, far_y, 0.2), self.ground, "floor", casts=False)
        b.box((0, 0, h + 0.1), (far_x, far_y, 0.2), self.top, "ceiling", casts=False)
        for sx, sy, px, py in (
            (0.2, far_y, far_x / 2, 0),
            (0.2, far_y, -far_x / 2, 0),
            (far_x, 0.2, 0, far_y / 2),
            (far_x, 0.2, 0, -far_y / 2),
        ):
            b.box((px, py, h / 2), (sx, sy, h + 0.3), self.papers[0], "wall", casts=False)
        for number, wall in enumerate(self.walls):
            b.place(wall.middle, wall.yaw)
            row = self.papers[number]
            edge = -wall.length / 2 - _THICK
            for x0, x1, z0, z1 in [*sorted(wall.openings), (wall.length / 2 + _THICK, 0, 0, 0)]:
                if x0 > edge:
                    b.box(((edge + x0) / 2, -_THICK / 2, h / 2), (x0 - edge, _THICK, h), row, "wall", casts=False)
                    if skirting is not None:
                        b.box(((edge + x0) / 2, 0.006, 0.045), (x0 - edge, 0.012, 0.09), skirting, "wall", casts=False)
                if x1 > x0:
                    if skirting is not None and z0 > 0.1:
                        b.box(((x0 + x1) / 2, 0.006, 0.045), (x1 - x0, 0.012, 0.09), skirting, "wall", casts=False)
                    for low, high in ((0, z0), (z1, h)):
                        if high - low > 0.01:
                            middle = ((x0 + x1) / 2, -_THICK / 2, (low + high) / 2)
                            b.box(middle, (x1 - x0, _THICK, high - low), row, "wall", casts=False)
                edge = x1

    def doors_and_windows(self, wall: Wall, number: int) -> None:
        rng = self.rng
        doors = number == 0 or rng.random() < (0.7 if self.kind == "corridor" else 0.2)
        if doors:
            count = int(rng.integers(1, 4)) if self.kind == "corridor" and wall.length > 4 else 1
            for _ in range(count):
                width = rng.uniform(0.8, 0.95)
                x = wall.room_for(rng, width + 0.1, 0.2)
                if x is not None:
                    self.door(wall, x, width)
        elif self.kind != "corridor" and self.kind != "store" and rng.random() < (0.9 if number == 2 else 0.3):
            width = min(rng.uniform(0.8, 2.4), wall.length - 0.8)
            x = wall.room_for(rng, width + 0.5, 0.1)
            if x is not None:
                self.window(wall, x, width)

    def door(self, wall: Wall, x: float, width: float) -> None:
        b, rng, h = self.b, self.rng, self.rng.uniform(1.98, 2.1)
        b.place(wall.middle, wall.yaw)
        wall.openings.append((x - width / 2, x + width / 2, 0.0, h))
        leaf = mat.door(rng)
        frame = leaf if rng.random() < 0.5 else mat.paint(rng, mat.hsv(0.1, 0.1, rng.uniform(0.3, 0.95)))
        for side in (-1.0, 1.0):
            b.box((x + side * (width / 2 + 0.02), -0.06, h / 2), (0.09, 0.16, h), frame, "door", casts=False)
        b.box((x, -0.06, h + 0.03), (width + 0.13, 0.16, 0.08), frame, "door", casts=False)
        knob = mat.metal(rng)
        angle = float(rng.choice([0.0, rng.uniform(0.3, 1.7)], p=[0.6, 0.4]))
        hinge, side = x - width / 2 + 0.02, 1.0
        if rng.random() < 0.5:
            hinge, side = x + width / 2 - 0.02, -1.0
        # The leaf turns about its hinge into the space beyond.
        turn = fur.turn_z(-side * angle)
        hinge_at = np.array([hinge, -0.09, 0.0])
        centre = hinge_at + turn @ np.array([side * (width - 0.05) / 2, 0, h / 2])
        b.box(tuple(centre), (width - 0.05, 0.04, h - 0.02), leaf, "door", turn, casts=False)
        for offset in (-0.05, 0.05):
            a = hinge_at + turn @ np.array([side * (width - 0.12), offset, 1.02])
            c = hinge_at + turn @ np.array([side * (width - 0.24), offset, 1.02])
            b.capsule(a, c, 0.011, knob, "door")
        self.keep_free(wall, x, width, 0.9)

    def window(self, wall: Wall, x: float, width: float) -> None:
        b, rng = self.b, self.rng
        b.place(wall.middle, wall.yaw)
        z0 = rng.uniform(0.7, 1.1)
        z1 = min(rng.uniform(1.9, 2.2), self.size[2] - 0.1)
        wall.openings.append((x - width / 2, x + width / 2, z0, z1))
        frame = mat.paint(rng, mat.hsv(0.1, 0.05, rng.choice([0.3, 0.9])), 0.1)
        view = mat.outdoors(rng, 0.03 + 3.0 * self.daylight)
        b.box((x, -0.1, (z0 + z1) / 2), (width, 0.02, z1 - z0), view, "window", casts=False)
        panes = max(1, round(width / 0.8))
        for k in range(panes + 1):
            b.box(
                (x + (k / panes - 0.5) * (width - 0.05), -0.08, (z0 + z1) / 2),
                (0.05, 0.05, z1 - z0),
                frame,
                "window",
                casts=False,
            )
        for z in (z0 + 0.025, z1 - 0.025, *([(z0 + z1) / 2] if rng.random() < 0.3 else [])):
            b.box((x, -0.08, z), (width, 0.05, 0.05), frame, "window", casts=False)
        b.box((x, 0.02, z0 - 0.01), (width + 0.1, 0.2, 0.03), frame, "window", casts=False)
        dressing = rng.random()
        if dressing < 0.45:
            cloth = mat.fabric(rng)
            bottom = z0 - 0.15 if rng.random() < 0.4 else 0.04
            open_ = rng.uniform(0.12, 0.5)
            for side in (-1, 1):
                ends = sorted((x + side * (width / 2 + 0.2), x + side * (width / 2 + 0.2 - open_ * (width / 2 + 0.2))))
                fit.folds(b, rng, ends[0], ends[1], 0.1, bottom, z1 + 0.12, cloth, "curtain")
            rod = mat.metal(rng)
            b.capsule(
                (x - width / 2 - 0.3, 0.1, z1 + 0.13), (x + width / 2 + 0.3, 0.1, z1 + 0.13), 0.013, rod, "curtain"
            )
        elif dressing < 0.75:
            pale = mat.hsv(0.12, rng.uniform(0, 0.2), rng.uniform(0.7, 0.95))
            slats = mat.material(rng, "slats", [pale, pale * 0.75, pale * 0.35], 0.5, glow=0.5 * self.daylight)
            drop = rng.uniform(0.2, 1.0) * (z1 - z0)
            b.box((x, -0.03, z1 - drop / 2), (width - 0.02, 0.02, drop), slats, "blinds", casts=False)
        if self.daylight > 0:
            tint = mat.hsv(rng.uniform(0.55, 0.62), rng.uniform(0, 0.25), 1.0)
            area = width * (z1 - z0)
            self.lights.append(
                Light(
                    b.world((x, 0.05, (z0 + z1) / 2)),
                    0.22 * math.sqrt(area),
                    3.0 * self.daylight * area * tint,
                    b.world((0, 1, 0)) - b.origin,
                )
            )

    def keep_free(self, wall: Wall, x: float, width: float, depth: float) -> None:
        self.b.place(wall.middle, wall.yaw)
        a, c = self.b.world((x - width / 2, 0, 0)), self.b.world((x + width / 2, depth, 0))
        self.taken.append((min(a[0], c[0]), min(a[1], c[1]), max(a[0], c[0]), max(a[1], c[1]), 0.0, 0.0))

    # --- furniture -----------------------------------------------------------------------------------------------

    def free(self, rect: tuple[float, float, float, float], gap: float) -> bool:
        """Whether a rectangle lies in the room, this far from everything in it; below 0 they may overlap."""
        x, y, _ = self.size / 2
        x0, y0, x1, y1 = rect
        if x0 < -x or x1 > x or y0 < -y or y1 > y:
            return False
        return all(x1 + gap <= t[0] or x0 - gap >= t[2] or y1 + gap <= t[1] or y0 - gap >= t[3] for t in self.taken)

    def put(self, piece: fur.Piece, at: tuple[float, float], yaw: float, gap: float = 0.02) -> bool:
        """Builds a piece if its footprint is free."""
        c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
        w, d = piece.width * c + piece.depth * s, piece.width * s + piece.depth * c
        rect = (at[0] - w / 2, at[1] - d / 2, at[0] + w / 2, at[1] + d / 2)
        if not self.free(rect, gap):
            return False
        self.taken.append((*rect, 0.0, piece.height))
        self.b.place((at[0], at[1], 0), yaw)
        piece.build(self.b)
        return True

    def at_wall(self, piece: fur.Piece, tries: int = 16, low: float = 1.0) -> Wall | None:
        """Stands a piece with its back to some wall; tall ones not in front of windows and pictures."""
        rng = self.rng
        for _ in range(tries):
            wall = self.walls[int(rng.integers(4))]
            limit = wall.length / 2 - piece.width / 2 - 0.03
            if limit < 0:
                continue
            x = float(rng.uniform(-limit, limit)) if rng.random() < 0.7 else float(rng.choice([-limit, limit]))
            span = (x - piece.width / 2, x + piece.width / 2)
            if piece.height > low and any(span[0] < t[1] and span[1] > t[0] for t in wall.taken):
                continue
            self.b.place(wall.middle, wall.yaw)
            spot = self.b.world((x, piece.depth / 2 + 0.03, 0))
            if self.put(piece, (float(spot[0]), float(spot[1])), wall.yaw, 0.0):
                if piece.height > low:
                    wall.taken.append(span)
                return wall
        return None

    def anywhere(self, piece: fur.Piece, tries: int = 8) -> bool:
        x, y, _ = self.size / 2
        for _ in range(tries):
            at = (float(self.rng.uniform(-x, x)), float(self.rng.uniform(-y, y)))
            if self.put(piece, at, float(self.rng.uniform(0, 2 * math.pi)), 0.05):
                return True
        return False

    def clutter(self, piece: fur.Piece, share: float, lamp: float = 0.0) -> None:
        """Things on the tops of the piece that was placed last."""
        rng = self.rng
        for x0, x1, y0, y1, z in piece.tops:
            if x1 <= x0 or y1 <= y0:
                continue
            n = rng.poisson(share * (x1 - x0) * (y1 - y0) / 0.12)
            if rng.random() < lamp:
                fit.table_lamp(self.b, rng, (rng.uniform(x0, x1), (y0 + y1) / 2, z))
            for _ in range(min(int(n), 9)):
                fur.small_thing(self.b, rng, (rng.uniform(x0, x1), rng.uniform(y0, y1), z), self.size[2] - z - 0.05)

    def furnish_wall(self, piece: fur.Piece, share: float = 0.5, lamp: float = 0.0) -> Wall | None:
        wall = self.at_wall(piece)
        if wall is not None:
            self.clutter(piece, share, lamp)
        return wall

    def seat_around(self, centre: tuple[float, float], yaw: float, piece: fur.Piece, chance: float) -> None:
        """Chairs of one kind along the long sides of a table."""
        rng = self.rng
        state = rng.bit_generator.state["state"]["state"] % 2**32
        count = max(1, int(piece.width / 0.65))
        for side in (-1, 1):
            for k in range(count):
                if rng.random() > chance:
                    continue
                chair = fur.chair(np.random.default_rng(state))
                x = (k - (count - 1) / 2) * piece.width / count
                y = side * (piece.depth / 2 + rng.uniform(0.19, 0.4))
                c, s = math.cos(yaw), math.sin(yaw)
                at = (centre[0] + c * x - s * y, centre[1] + s * x + c * y)
                self.put(chair, at, yaw + (math.pi if side > 0 else 0) + rng.normal(0, 0.15), -0.12)

    # --- the end -------------------------------------------------------------------------------------------------

    def hang(self, chance: float) -> None:
        """Pictures and the like on what is left of the walls."""
        b, rng = self.b, self.rng
        for wall in self.walls:
            for _ in range(int(rng.poisson(chance * wall.length / 2))):
                kind = rng.random()
                width = 1.2 if kind > 0.72 else 0.7
                x = wall.room_for(rng, width, 0.05)
                if x is None:
                    continue
                b.place(wall.middle, wall.yaw)
                if kind < 0.6:
                    fit.picture(b, rng, x, rng.uniform(1.4, 1.7), width)
                elif kind < 0.72:
                    fit.notices(b, rng, x, width)
                elif kind < 0.8:
                    fit.mirror(b, rng, x, 1.5, width)
                elif kind < 0.92 or self.kind in ("living", "bedroom"):
                    fit.wall_shelf(b, rng, x, width)
                else:
                    fit.whiteboard(b, rng, x, width)

    def lamps(self) -> None:
        """Lamps under the ceiling; at night or by chance they are on."""
        b, rng = self.b, self.rng
        b.place((0, 0, 0), 0)
        x, y, h = self.size
        lit = not self.lights or rng.random() < 0.6
        warm = mat.hsv(rng.uniform(0.07, 0.13), rng.uniform(0.0, 0.28), 1.0)
        glow = mat.glowing(rng, warm, 4.0 if lit else 0.4)
        count = 1 if x * y < 14 else int(rng.integers(1, 3))
        count = max(count, int(y // 3)) if self.kind in ("corridor", "classroom", "store", "office") else count
        power = 4.0 * (x * y / 14) ** 0.5 / count
        style = rng.random()
        for k in range(count):
            at = np.array([rng.normal(0, 0.05) * x, ((k + 0.5) / count - 0.5) * y * 0.8, h])
            drop = 0.08
            if self.kind in ("office", "classroom", "store") or style < 0.25:
                b.box((at[0], at[1], h - 0.03), (0.3, 1.2, 0.06), glow, "lamp", casts=False)
            elif style < 0.65:
                b.ball((at[0], at[1], h), (0.4, 0.4, 0.22), glow, "lamp")
                drop = 0.2
            else:
                drop = rng.uniform(0.4, 0.8)
                b.capsule((at[0], at[1], h), (at[0], at[1], h - drop), 0.01, mat.metal(rng), "lamp")
                b.column((at[0], at[1], h - drop), (0.4, 0.4, 0.22), glow, "lamp", taper=-0.3, casts=False)
            if lit and len(self.lights) < 3:
                self.lights.append(Light(at - (0, 0, drop + 0.08), 0.18, power * warm))

    def scene(self) -> Scene:
        rng = self.rng
        self.hang(rng.uniform(0.5, 2.0))
        self.lamps()
        lights = sorted(self.lights, key=lambda light: -float(light.power.sum()))[:3]
        total = sum(light.power for light in lights) / (self.size[0] * self.size[1])
        tint = mat.hsv(rng.uniform(0.05, 0.6), rng.uniform(0, 0.15), 1.0)
        return Scene(self.b, lights, total * rng.uniform(0.5, 1.1) * tint, self.size, self.taken)


def build_scene(rng: Random, kind: str | None = None) -> Scene:
    """A furnished room.

    Args:
        rng: decides everything.
        kind: one of KINDS, or None for any, in the proportions of NYUv2.

    Raises:
        ValueError: unknown kind.
    """
    if kind is None:
        kind = str(rng.choice(KINDS, p=_SHARES))
    if kind not in KINDS:
        raise ValueError(f"unknown kind of room {kind!r}: one of {', '.join(KINDS)}")
    from mila_ros.worlds.rendered_layouts import furnish

    room = Room(rng, kind)
    for number, wall in enumerate(room.walls):
        room.doors_and_windows(wall, number)
    room.shell()
    furnish(room)
    return room.scene()
