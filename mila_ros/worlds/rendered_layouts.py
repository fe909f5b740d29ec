"""What stands in which kind of room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mila_ros.worlds import rendered_fittings as fit
from mila_ros.worlds import rendered_furniture as fur

if TYPE_CHECKING:
    from mila_ros.worlds.rendered_rooms import Room


_GROUP_AREA = 44.0
"""Square metres: a room larger than this has another group of furniture, one more than twice as large two more."""


def furnish(room: Room) -> None:
    """Fills an empty room with what belongs there, then with what lies about."""
    lay_out = {
        "living": _living,
        "bedroom": _bedroom,
        "kitchen": _kitchen,
        "office": _office,
        "study": _study,
        "dining": _dining,
        "bathroom": _bathroom,
        "classroom": _classroom,
        "corridor": _corridor,
        "store": _store,
    }[room.kind]
    for _ in range(1 + int(room.size[0] * room.size[1] // _GROUP_AREA)):
        lay_out(room)
    _fill(room)
    _litter(room)


def _dining_set(room: Room, tries: int = 8) -> None:
    rng = room.rng
    piece = fur.table(rng)
    for _ in range(tries):
        at = tuple(float(rng.uniform(-0.3, 0.3)) * s for s in room.size[:2])
        yaw = float(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05))
        if room.put(piece, (at[0], at[1]), yaw, 0.3):
            room.clutter(piece, 0.5)
            room.seat_around((at[0], at[1]), yaw, piece, 0.85)
            return


def _living(room: Room) -> None:
    rng, b = room.rng, room.b
    couch = fur.sofa(rng, int(rng.integers(2, 4)))
    wall = room.at_wall(couch)
    if wall is not None:
        centre, front = b.origin.copy(), b.rotation @ np.array([0, 1.0, 0])
        yaw = wall.yaw
        if rng.random() < 0.6:
            spot = centre + front * 0.9
            fit.rug(b, rng, 0, 0.9, rng.uniform(1.6, 2.4), rng.uniform(1.2, 1.7), rng.normal(0, 0.05))
        low = fur.table(rng, low=True)
        spot = centre + front * (couch.depth / 2 + low.depth / 2 + rng.uniform(0.3, 0.45))
        if room.put(low, (float(spot[0]), float(spot[1])), yaw):
            room.clutter(low, 1.2)
        spot = centre + front * rng.uniform(2.2, 3.2) + b.rotation @ np.array([rng.uniform(-1, 1), 0, 0])
        if rng.random() < 0.4:
            room.put(fur.sofa(rng, 1), (float(spot[0]), float(spot[1])), yaw + np.pi + rng.normal(0, 0.3))
    if rng.random() < 0.8:
        room.furnish_wall(fur.television(rng))
    for maker in rng.permutation(5)[: int(rng.integers(2, 5))]:
        if maker == 0:
            room.furnish_wall(fur.bookshelf(rng), 0.4)
        elif maker == 1:
            room.furnish_wall(fit.floor_lamp(rng))
        elif maker == 2:
            room.furnish_wall(fur.cabinet(rng))
        elif maker == 3:
            room.furnish_wall(fur.sofa(rng, 1))
        else:
            room.furnish_wall(fur.drawers(rng), 0.7, 0.4)
    if room.size[0] * room.size[1] > 22 and rng.random() < 0.5:
        _dining_set(room)


def _bedroom(room: Room) -> None:
    rng, b = room.rng, room.b
    bed = fur.bed(rng)
    wall = room.at_wall(bed, 20, low=1.3)
    if wall is not None:
        bed_at, turn, yaw = b.origin.copy(), b.rotation.copy(), wall.yaw
        if rng.random() < 0.35:
            fit.rug(b, rng, 0, 0.5, bed.width + 1.0, 1.6, 0.0)
        for side in (-1, 1):
            if rng.random() < 0.7:
                stand = fur.drawers(rng, "night_stand", small=True)
                spot = bed_at + turn @ np.array(
                    [side * (bed.width + stand.width + 0.1) / 2, (stand.depth - bed.depth) / 2, 0]
                )
                if room.put(stand, (float(spot[0]), float(spot[1])), yaw, 0.0):
                    room.clutter(stand, 0.6, 0.6)
    for maker in rng.permutation(6)[: int(rng.integers(2, 5))]:
        if maker == 0:
            room.furnish_wall(fur.drawers(rng), 0.9, 0.4)
        elif maker == 1:
            room.furnish_wall(fur.cabinet(rng, True))
        elif maker == 2:
            _desk_and_chair(room)
        elif maker == 3:
            room.furnish_wall(fur.bookshelf(rng))
        elif maker == 4:
            room.furnish_wall(fur.chair(rng))
        else:
            room.furnish_wall(fur.television(rng))


def _desk_and_chair(room: Room) -> None:
    rng = room.rng
    desk = fur.desk(rng)
    wall = room.furnish_wall(desk, 1.0, 0.3)
    if wall is not None:
        spot = room.b.world((rng.uniform(-0.2, 0.2), desk.depth / 2 + rng.uniform(0.05, 0.4), 0))
        room.put(fur.chair(rng), (float(spot[0]), float(spot[1])), wall.yaw + np.pi + rng.normal(0, 0.4), -0.12)


def _kitchen(room: Room) -> None:
    rng = room.rng
    wall = max(room.walls, key=lambda w: w.length - 3 * len(w.openings))
    room.furnish_wall(fit.kitchen(rng, min(rng.uniform(2.4, 4.5), wall.length - 0.2)), 1.0)
    if rng.random() < 0.5:
        room.furnish_wall(fit.kitchen(rng, rng.uniform(1.2, 2.4)), 1.2)
    if rng.random() < 0.7:
        _dining_set(room)
    if rng.random() < 0.4:
        room.furnish_wall(fur.cabinet(rng), 0.6)


def _office(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(1, 4))):
        _desk_and_chair(room)
    for _ in range(int(rng.integers(1, 4))):
        room.furnish_wall(fur.bookshelf(rng) if rng.random() < 0.6 else fur.cabinet(rng), 0.6)
    if rng.random() < 0.4:
        _dining_set(room)
    for wall in room.walls:
        x = wall.room_for(rng, 1.8) if rng.random() < 0.4 else None
        if x is not None:
            room.b.place(wall.middle, wall.yaw)
            fit.whiteboard(room.b, rng, x, 1.8)


def _study(room: Room) -> None:
    _desk_and_chair(room)
    for _ in range(int(room.rng.integers(1, 4))):
        room.furnish_wall(fur.bookshelf(room.rng))
    if room.rng.random() < 0.6:
        room.furnish_wall(fur.sofa(room.rng))


def _dining(room: Room) -> None:
    rng = room.rng
    _dining_set(room, 20)
    for _ in range(int(rng.integers(1, 3))):
        room.furnish_wall(fur.cabinet(rng) if rng.random() < 0.5 else fur.drawers(rng), 0.8, 0.3)
    if rng.random() < 0.3:
        room.furnish_wall(fur.sofa(rng))


def _bathroom(room: Room) -> None:
    rng = room.rng
    wall = room.furnish_wall(fit.washstand(rng), 1.0)
    if wall is not None:
        local = room.b.origin - wall.middle
        room_x = float(local @ np.array([np.cos(wall.yaw), np.sin(wall.yaw), 0]))
        room.b.place(wall.middle, wall.yaw)
        fit.mirror(room.b, rng, room_x, 1.5, 0.8)
    room.furnish_wall(fit.toilet(rng))
    if rng.random() < 0.75:
        room.furnish_wall(fit.bathtub(rng))
    for wall in room.walls:
        x = wall.room_for(rng, 0.7) if rng.random() < 0.5 else None
        if x is not None:
            room.b.place(wall.middle, wall.yaw)
            fit.towel(room.b, rng, x)


def _classroom(room: Room) -> None:
    rng = room.rng
    seed = int(rng.integers(2**31))
    y = -0.5 * room.size[1] + 1.6
    wall = room.walls[2]
    x = wall.room_for(rng, 2.6)
    if x is not None:
        room.b.place(wall.middle, wall.yaw)
        fit.whiteboard(room.b, rng, x, 2.6)
    while y < room.size[1] / 2 - 1.2:
        for x in np.arange(-room.size[0] / 2 + 1.0, room.size[0] / 2 - 0.8, 1.9):
            piece = fur.table(np.random.default_rng(seed))
            at = (float(x + rng.normal(0, 0.08)), float(y + rng.normal(0, 0.08)))
            if room.put(piece, at, rng.normal(0, 0.05)):
                room.clutter(piece, 0.2)
                room.seat_around(at, 0.0, piece, 0.45)
        y += 1.7
    room.furnish_wall(fur.bookshelf(rng))


def _corridor(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(0, 4))):
        makers: list[Callable[[np.random.Generator], fur.Piece]] = [fur.bookshelf, fur.cabinet, fur.chair, fur.drawers]
        piece = makers[int(rng.integers(4))](rng)
        if piece.depth < 0.45:
            room.furnish_wall(piece)


def _store(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(4, 8))):
        room.furnish_wall(fur.bookshelf(rng, rng.choice(["bookshelf", "shelves"]), 0.95), 0.8)
    for x in np.arange(-room.size[0] / 2 + 1.6, room.size[0] / 2 - 1.2, 1.9):
        for y in np.arange(-room.size[1] / 2 + 1.6, room.size[1] / 2 - 1.2, 1.25):
            room.put(fur.bookshelf(rng, fill=0.95), (float(x), float(y)), np.pi / 2)


def _fill(room: Room) -> None:
    """More of what is found anywhere, along the walls that are still free: some rooms are crowded, some are not."""
    rng = room.rng
    if room.kind in ("corridor", "bathroom"):
        return
    perimeter = 2 * float(room.size[0] + room.size[1])
    for _ in range(int(rng.poisson(rng.uniform(0.05, 0.5) * perimeter))):
        kind = rng.random()
        if kind < 0.22:
            room.furnish_wall(fur.bookshelf(rng, str(rng.choice(["bookshelf", "shelves"], p=[0.7, 0.3]))), 0.6)
        elif kind < 0.42:
            room.furnish_wall(fur.cabinet(rng), 0.6)
        elif kind < 0.54:
            room.furnish_wall(fur.drawers(rng), 0.8, 0.3)
        elif kind < 0.66:
            room.furnish_wall(fur.table(rng, label=str(rng.choice(["table", "desk", "other_furniture"]))), 1.0, 0.2)
        elif kind < 0.76:
            room.furnish_wall(fur.sofa(rng, 1))
        elif kind < 0.88:
            room.furnish_wall(fur.chair(rng))
        elif kind < 0.94:
            room.furnish_wall(fit.floor_lamp(rng))
        else:
            room.furnish_wall(fur.drawers(rng, "night_stand", small=True), 0.8, 0.4)


def _litter(room: Room) -> None:
    """What lies and stands about."""
    rng = room.rng
    if room.kind not in ("bathroom", "corridor") and rng.random() < 0.25:
        x, y, _ = room.size
        room.b.place((0, 0, 0), 0)
        at = (rng.uniform(-0.2, 0.2) * x, rng.uniform(-0.2, 0.2) * y)
        fit.rug(room.b, rng, at[0], at[1], rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.4), rng.uniform(-0.2, 0.2))
    for _ in range(int(rng.poisson(0.14 * room.size[0] * room.size[1]))):
        kind = rng.random()
        if kind < 0.3:
            room.furnish_wall(fit.carton(rng))
        elif kind < 0.45:
            room.anywhere(fit.bag(rng))
        elif kind < 0.55:
            room.anywhere(fit.laundry(rng))
        elif kind < 0.68:
            room.furnish_wall(fit.potted(rng))
        elif kind < 0.8:
            room.furnish_wall(fit.bin_(rng))
        else:
            room.furnish_wall(fur.chair(rng))
