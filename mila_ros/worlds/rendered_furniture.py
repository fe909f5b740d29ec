"""Furniture of the rendered world, put together from boxes, columns, balls and rods.

Each function draws the sizes and materials of one piece and returns a `Piece`: its footprint, the tops that things can
stand on, and how it is built in the frame of a `Builder` (x right, +y to the front, z up, origin on the floor under
its middle).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_scene import Builder, turn_x, turn_z

Random = np.random.Generator
Top = tuple[float, float, float, float, float]
"""x0, x1, y0, y1, z of a free top, in the piece's frame."""


@dataclass
class Piece:
    """A piece of furniture before it is placed: width (x), depth (y), height, tops, and how to build it."""

    width: float
    depth: float
    height: float
    build: Callable[[Builder], None]
    tops: list[Top] = field(default_factory=list)


def _legs(
    b: Builder, w: float, d: float, h: float, thick: float, row: mat.Material, label: str, inset: float = 0.02
) -> None:
    for x in (-w / 2 + inset + thick / 2, w / 2 - inset - thick / 2):
        for y in (-d / 2 + inset + thick / 2, d / 2 - inset - thick / 2):
            b.box((x, y, h / 2), (thick, thick, h), row, label)


def table(rng: Random, low: bool = False, label: str = "table") -> Piece:
    """A dining table, or a low one for a sofa; square, long or round."""
    h = rng.uniform(0.35, 0.48) if low else rng.uniform(0.7, 0.78)
    w, d = (
        rng.uniform(0.7, 1.3) if low else rng.uniform(0.9, 1.9),
        rng.uniform(0.5, 0.7) if low else rng.uniform(0.75, 1.0),
    )
    thick, leg = rng.uniform(0.02, 0.05), rng.uniform(0.04, 0.08)
    top = mat.wood(rng) if rng.random() < 0.7 else mat.paint(rng, gloss=0.15)
    under = top if rng.random() < 0.6 else mat.metal(rng)
    round_top = rng.random() < 0.25
    if round_top:
        w = d = rng.uniform(0.6, 0.8) if low else rng.uniform(0.8, 1.2)

    def build(b: Builder) -> None:
        if round_top:
            b.column((0, 0, h - thick / 2), (w, d, thick), top, label)
            b.column((0, 0, h / 2), (leg * 1.5, leg * 1.5, h - thick), under, label)
            b.column((0, 0, 0.02), (w * 0.5, d * 0.5, 0.04), under, label)
            return
        b.box((0, 0, h - thick / 2), (w, d, thick), top, label)
        _legs(b, w, d, h - thick, leg, under, label)
        if thick < 0.035:
            for y in (-d / 2 + 0.05, d / 2 - 0.05):
                b.box((0, y, h - thick - 0.04), (w - 0.1, 0.02, 0.08), under, label)

    m = 0.25 * w if round_top else 0.08
    return Piece(w, d, h, build, [(-w / 2 + m, w / 2 - m, -d / 2 + m, d / 2 - m, h)])


def chair(rng: Random) -> Piece:
    """A chair with a back: legs, or a swivel foot with or without arms."""
    w, d, seat, back = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.52), rng.uniform(0.43, 0.48), rng.uniform(0.35, 0.55)
    office = rng.random() < 0.3
    frame = mat.wood(rng) if rng.random() < 0.6 else mat.paint(rng)
    cover = mat.fabric(rng) if office or rng.random() < 0.5 else frame
    slats, arms, lean = int(rng.integers(0, 4)), rng.random() < 0.35, rng.uniform(0.05, 0.2)

    def build(b: Builder) -> None:
        b.box((0, 0, seat - 0.03), (w, d, rng.uniform(0.03, 0.07)), cover, "chair")
        turn = turn_x(lean)
        mid = (0, -d / 2 - 0.02 - 0.5 * back * lean, seat + 0.05 + back / 2)
        if office:
            b.column((0, 0, seat / 2), (0.06, 0.06, seat - 0.05), mat.metal(rng), "chair")
            for k in range(5):
                a = 2 * np.pi * k / 5
                b.capsule((0, 0, 0.09), (0.27 * np.cos(a), 0.27 * np.sin(a), 0.05), 0.025, frame, "chair")
            b.box(mid, (w * 0.95, 0.06, back), cover, "chair", turn)
        else:
            _legs(b, w, d, seat - 0.03, 0.04, frame, "chair", 0.0)
            if slats == 0:
                b.box(mid, (w, 0.03, back), cover, "chair", turn)
            else:
                for x in (-w / 2 + 0.02, w / 2 - 0.02):
                    b.box((x, mid[1], mid[2] - 0.03), (0.035, 0.035, back + 0.06), frame, "chair", turn)
                for k in range(slats):
                    share = 1 - k / max(slats, 2) * 0.9
                    z = seat + 0.08 + (back - 0.08) * share
                    b.box((0, mid[1] + lean * (mid[2] - z), z), (w - 0.05, 0.025, 0.09), cover, "chair", turn)
        if arms:
            for x in (-w / 2 - 0.02, w / 2 + 0.02):
                b.box((x, 0, seat + 0.2), (0.05, d * 0.8, 0.04), frame, "chair")
                b.box((x, d * 0.3, seat + 0.09), (0.04, 0.04, 0.2), frame, "chair")

    return Piece(w + 0.06, d + 0.15, seat + back, build)


def sofa(rng: Random, seats: int | None = None) -> Piece:
    """A sofa of one to three seats with cushions and pillows."""
    n = int(rng.choice([1, 2, 3], p=[0.3, 0.3, 0.4])) if seats is None else seats
    arm, seat_w = rng.uniform(0.12, 0.25), rng.uniform(0.55, 0.75)
    w, d, h, seat = n * seat_w + 2 * arm, rng.uniform(0.8, 1.0), rng.uniform(0.75, 0.95), rng.uniform(0.38, 0.46)
    arm_h, back = rng.uniform(0.52, 0.66), rng.uniform(0.18, 0.28)
    cover = mat.fabric(rng, plain=0.8)
    round_arms = rng.random() < 0.4

    def build(b: Builder) -> None:
        b.box((0, 0, 0.16), (w - 0.04, d - 0.04, 0.2), cover, "sofa")
        b.box((0, -d / 2 + back / 2, h / 2), (w - arm, back, h - 0.05), cover, "sofa")
        for side in (-1, 1):
            x = side * (w - arm) / 2
            b.box((x, 0, arm_h / 2), (arm, d, arm_h - 0.06), cover, "sofa")
            if round_arms:
                b.capsule((x, -d / 2 + 0.08, arm_h), (x, d / 2 - 0.08, arm_h), arm * 0.55, cover, "sofa")
        for k in range(n):
            x = (k - (n - 1) / 2) * seat_w
            b.box((x, back / 2 + 0.01, seat - 0.07), (seat_w - 0.015, d - back - 0.02, 0.15), cover, "sofa")
            lean = turn_x(0.18)
            b.box((x, -d / 2 + back + 0.07, seat + 0.2), (seat_w - 0.03, 0.14, h - seat - 0.02), cover, "sofa", lean)
            if rng.random() < 0.45:
                pillow(b, rng, (x + rng.uniform(-0.1, 0.1), -d / 2 + back + 0.22, seat + 0.19))

    return Piece(w, d, h, build)


def pillow(b: Builder, rng: Random, at: tuple[float, float, float], lying: bool = False) -> None:
    size = (
        (rng.uniform(0.4, 0.65), rng.uniform(0.3, 0.42), 0.16)
        if lying
        else (rng.uniform(0.38, 0.48), 0.16, rng.uniform(0.36, 0.44))
    )
    turn = turn_z(rng.normal(0, 0.15)) @ turn_x(rng.normal(0, 0.05) if lying else rng.uniform(0.2, 0.5))
    b.ball(at, size, mat.fabric(rng, plain=0.5), "pillow", turn)


def bed(rng: Random) -> Piece:
    """A bed with its head at the wall: frame, mattress, blanket that hangs over, pillows."""
    double = rng.random() < 0.6
    w, d, top = (
        (rng.uniform(1.4, 1.8) if double else rng.uniform(0.9, 1.1)),
        rng.uniform(2.0, 2.2),
        rng.uniform(0.45, 0.68),
    )
    frame, sheet = mat.wood(rng), mat.fabric(rng, mat.hsv(rng.random(), rng.uniform(0, 0.2), 0.9), plain=0.8)
    blanket = mat.fabric(rng, plain=0.4)
    head, reach = rng.uniform(0.75, 1.25), rng.uniform(0.45, 0.8)

    def build(b: Builder) -> None:
        b.box((0, -d / 2 + 0.03, head / 2), (w + 0.06, 0.06, head), frame, "bed")
        b.box((0, 0.02, 0.2), (w, d - 0.08, 0.22), frame, "bed")
        b.box((0, 0.02, (0.3 + top) / 2), (w - 0.02, d - 0.1, top - 0.3), sheet, "bed")
        y = d / 2 - 0.02 - reach * d / 2
        b.box((0, y, (top + 0.22) / 2 + 0.01), (w + 0.06, reach * d, top - 0.18), blanket, "bed")
        if rng.random() < 0.6:
            for _ in range(3):
                at = (rng.uniform(-0.35, 0.35) * w, y + rng.uniform(-0.3, 0.3), top + 0.02)
                b.ball(
                    at, (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), 0.09), blanket, "bed", turn_z(rng.uniform(0, 3))
                )
        for k in range(2 if double else 1):
            x = (k - 0.5) * w * 0.48 if double else 0.0
            pillow(b, rng, (x, -d / 2 + 0.35, top + 0.07), lying=True)
        if rng.random() < 0.4:
            for _ in range(int(rng.integers(1, 4))):
                at = (rng.uniform(-0.35, 0.35) * w, rng.uniform(0, 0.35) * d, top + 0.05)
                size = (rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.5), rng.uniform(0.06, 0.16))
                b.ball(at, size, mat.fabric(rng), "clothes", turn_z(rng.uniform(0, 3)))

    return Piece(w, d, max(head, top), build)


def drawers(rng: Random, label: str = "dresser", small: bool = False) -> Piece:
    """A chest of drawers or a night stand: a case, fronts, knobs."""
    w = rng.uniform(0.4, 0.55) if small else rng.uniform(0.8, 1.5)
    d, h = rng.uniform(0.38, 0.52), rng.uniform(0.45, 0.65) if small else rng.uniform(0.75, 1.15)
    case = mat.wood(rng) if rng.random() < 0.7 else mat.paint(rng)
    front = case if rng.random() < 0.6 else mat.paint(rng)
    knob = mat.metal(rng)
    rows, columns = (2 if small else int(rng.integers(3, 5))), (1 if small else int(rng.integers(1, 3)))

    def build(b: Builder) -> None:
        b.box((0, -0.01, h / 2), (w, d - 0.02, h), case, label)
        fw, fh = w / columns, (h - 0.1) / rows
        for c in range(columns):
            for r in range(rows):
                x, z = (c + 0.5) * fw - w / 2, 0.07 + (r + 0.5) * fh
                b.box((x, d / 2 - 0.01, z), (fw - 0.03, 0.02, fh - 0.025), front, label)
                b.ball((x, d / 2 + 0.01, z), (0.05 if small else 0.1, 0.03, 0.03), knob, label)

    return Piece(w, d, h, build, [(-w / 2 + 0.06, w / 2 - 0.06, -d / 2 + 0.06, d / 2 - 0.08, h)])


def cabinet(rng: Random, tall: bool | None = None) -> Piece:
    """A cupboard or wardrobe with doors."""
    tall = rng.random() < 0.6 if tall is None else tall
    w, d = rng.uniform(0.8, 1.8), rng.uniform(0.4, 0.62)
    h = rng.uniform(1.7, 2.2) if tall else rng.uniform(0.7, 1.0)
    case = mat.wood(rng, swap=True) if rng.random() < 0.6 else mat.paint(rng)
    front = mat.door(rng) if rng.random() < 0.5 else case
    knob, n = mat.metal(rng), max(2, round(w / 0.5))

    def build(b: Builder) -> None:
        b.box((0, -0.01, h / 2), (w, d - 0.02, h), case, "cabinet")
        for k in range(n):
            x = (k + 0.5) * w / n - w / 2
            b.box((x, d / 2 - 0.01, h / 2 + 0.03), (w / n - 0.012, 0.024, h - 0.1), front, "cabinet")
            side = (w / n / 2 - 0.05) * (1 if k % 2 == 0 else -1)
            z = 0.55 * h if tall else 0.75 * h
            b.capsule((x + side, d / 2 + 0.025, z - 0.06), (x + side, d / 2 + 0.025, z + 0.06), 0.009, knob, "cabinet")

    return Piece(w, d, h, build, [(-w / 2 + 0.06, w / 2 - 0.06, -d / 2 + 0.06, d / 2 - 0.08, h)])


def book_row(b: Builder, rng: Random, x0: float, x1: float, y: float, z: float, depth: float, height: float) -> None:
    """Books along x in blocks of equal height, some lying, some gaps."""
    x = x0
    while x < x1 - 0.05:
        n = min(rng.uniform(0.08, 0.35), x1 - x)
        h = height * rng.uniform(0.6, 0.95)
        if rng.random() < 0.8:
            row = mat.books(rng)
            row[mat.SCALE_V] = 0.9 / h
            row[mat.OFFSET_V] = 0.5
            b.box((x + n / 2, y, z + h / 2), (n, depth * rng.uniform(0.7, 0.95), h), row, "books")
        elif rng.random() < 0.5:
            small_thing(b, rng, (x + n / 2, y, z), min(n, height * 0.8))
        x += n + (rng.uniform(0.0, 0.12) if rng.random() < 0.4 else 0.002)


def bookshelf(rng: Random, label: str = "bookshelf", fill: float = 0.85) -> Piece:
    """An open bookcase, filled with books and things."""
    w, d, h = rng.uniform(0.7, 1.5), rng.uniform(0.26, 0.36), rng.choice([rng.uniform(0.9, 1.2), rng.uniform(1.7, 2.2)])
    row = mat.wood(rng, swap=True) if rng.random() < 0.7 else mat.paint(rng)
    shelf = row.copy()
    shelf[mat.SWAP] = 0
    n, thick = max(2, round(h / 0.36)), 0.025
    back = rng.random() < 0.8

    def build(b: Builder) -> None:
        for x in (-w / 2 + thick / 2, w / 2 - thick / 2):
            b.box((x, 0, h / 2), (thick, d, h), row, label)
        if back:
            b.box((0, -d / 2 + 0.01, h / 2), (w - thick, 0.014, h - 0.02), row, label)
        pitch = (h - 0.08 - thick) / n
        for k in range(n + 1):
            z = 0.08 + k * pitch
            b.box((0, 0, z), (w - 2 * thick + 0.004, d - 0.005, thick), shelf, label)
            if k < n and rng.random() < fill:
                start = -w / 2 + thick + 0.01
                stop = w / 2 - thick - 0.01 if rng.random() < 0.6 else rng.uniform(0, w / 2 - thick)
                book_row(b, rng, start, stop, -0.02, z + thick / 2, d - 0.06, pitch - thick)

    return Piece(w, d, h, build, [(-w / 2 + 0.05, w / 2 - 0.05, -d / 2 + 0.05, d / 2 - 0.05, h)])


def desk(rng: Random) -> Piece:
    """A desk with drawers or legs, a monitor, a keyboard, papers."""
    w, d, h = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.8), rng.uniform(0.71, 0.76)
    row = mat.wood(rng) if rng.random() < 0.7 else mat.paint(rng)
    under = row if rng.random() < 0.5 else mat.metal(rng)
    side = rng.choice([-1, 1])
    pedestal, computer = rng.random() < 0.6, rng.random() < 0.7
    dark = mat.paint(rng, mat.hsv(0, 0, rng.uniform(0.08, 0.25)))

    def build(b: Builder) -> None:
        b.box((0, 0, h - 0.015), (w, d, 0.03), row, "desk")
        _legs(b, w, d, h - 0.03, 0.05, under, "desk")
        b.box((0, -d / 2 + 0.06, h - 0.2), (w - 0.1, 0.015, 0.3), row, "desk")
        if pedestal:
            b.box((side * (w / 2 - 0.27), 0, 0.36), (0.4, d - 0.12, h - 0.09), row, "desk")
            for k in range(3):
                z = 0.15 + 0.2 * k
                b.box((side * (w / 2 - 0.27), d / 2 - 0.05, z), (0.37, 0.02, 0.18), under, "desk")
        if computer:
            x = rng.uniform(-0.2, 0.2)
            mw, mh = rng.uniform(0.42, 0.62), rng.uniform(0.27, 0.38)
            b.box((x, -0.1 * d, h + 0.11 + mh / 2), (mw, 0.03, mh), dark, "otherprop")
            screen = mat.printed(rng, "screen", glow=rng.choice([0.0, 0.6])) if rng.random() < 0.7 else dark
            b.box((x, -0.1 * d + 0.016, h + 0.11 + mh / 2), (mw - 0.03, 0.005, mh - 0.03), screen, "otherprop")
            b.column((x, -0.1 * d - 0.03, h + 0.08), (0.05, 0.03, 0.16), dark, "otherprop")
            b.column((x, -0.1 * d - 0.02, h + 0.007), (0.22, 0.16, 0.014), dark, "otherprop")
            b.box((x, 0.22 * d, h + 0.012), (0.44, 0.14, 0.022), mat.printed(rng, "page"), "otherprop")

    half = 0.42 if computer else 0.0
    tops = [(-w / 2 + 0.06, -half, -d / 2 + 0.08, d / 2 - 0.1, h), (half, w / 2 - 0.06, -d / 2 + 0.08, d / 2 - 0.1, h)]
    return Piece(w, d, h, build, [t for t in tops if t[1] - t[0] > 0.12])


def television(rng: Random) -> Piece:
    """A television on a low stand with shelves."""
    w, d, h = rng.uniform(1.1, 1.8), rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.62)
    row = mat.wood(rng) if rng.random() < 0.6 else mat.paint(rng)
    tw = rng.uniform(0.7, min(1.3, w))
    th, on = tw * 0.57, rng.random() < 0.4
    dark = mat.paint(rng, mat.hsv(0, 0, rng.uniform(0.06, 0.2)), gloss=0.15)
    label = "other_furniture" if rng.random() < 0.4 else "cabinet"

    def build(b: Builder) -> None:
        for z in (0.06, h - 0.015):
            b.box((0, 0, z), (w, d, 0.03), row, label)
        for x in (-w / 2 + 0.015, 0, w / 2 - 0.015):
            b.box((x, 0, h / 2), (0.03, d - 0.01, h - 0.03), row, label)
        b.box((0, -d / 2 + 0.01, h / 2), (w, 0.015, h - 0.04), row, label)
        for x in (-w / 4, w / 4):
            if rng.random() < 0.6:
                b.box((x, 0, 0.13), (0.38, 0.28, 0.1), dark, "otherprop")
        b.box((0, 0, h + 0.06 + th / 2), (tw, 0.05, th), dark, "television")
        b.box((0, 0, h + 0.035), (tw * 0.4, 0.22, 0.07), dark, "television")
        picture = mat.printed(rng, "picture", glow=rng.uniform(0.6, 1.5), gloss=0.1) if on else dark
        b.box((0, 0.026, h + 0.06 + th / 2), (tw - 0.05, 0.004, th - 0.05), picture, "television")

    tops = [(-w / 2 + 0.05, -tw / 2 - 0.02, -0.15, 0.15, h), (tw / 2 + 0.02, w / 2 - 0.05, -0.15, 0.15, h)]
    return Piece(w, d, h + 0.06 + th, build, [t for t in tops if t[1] - t[0] > 0.1])


def small_thing(b: Builder, rng: Random, at: tuple[float, float, float], room: float = 0.3) -> None:
    """A cup, bottle, bowl, plant, box, stack of books or paper that stands at a point."""
    x, y, z = at
    kind, row = rng.random(), mat.paint(rng, gloss=0.1)
    if kind < 0.18:
        h = min(rng.uniform(0.08, 0.13), room)
        b.column((x, y, z + h / 2), (0.08, 0.08, h), row, "otherprop", taper=0.1)
    elif kind < 0.36:
        h, r = min(rng.uniform(0.18, 0.3), room), rng.uniform(0.06, 0.09)
        b.column((x, y, z + 0.36 * h), (r, r, 0.72 * h), row, "otherprop")
        b.column((x, y, z + 0.86 * h), (r * 0.4, r * 0.4, 0.28 * h), row, "otherprop")
    elif kind < 0.46:
        w = min(rng.uniform(0.12, 0.3), room)
        b.ball((x, y, z + 0.25 * w), (w, w, 0.5 * w), row, "otherprop")
    elif kind < 0.56 and room > 0.25:
        plant(b, rng, at, rng.uniform(0.2, 0.45))
    elif kind < 0.78:
        w, n = min(rng.uniform(0.17, 0.26), room), int(rng.integers(1, 5))
        for k in range(n):
            size = (w * rng.uniform(0.8, 1), w * 0.7, rng.uniform(0.02, 0.04))
            b.box((x, y, z + 0.015 + 0.03 * k), size, mat.paint(rng), "books", turn_z(rng.uniform(-0.5, 0.5)))
    elif kind < 0.9:
        sx, sy, sz = (min(float(s), room) for s in rng.uniform(0.08, 0.3, 3))
        b.box((x, y, z + sz / 2), (sx, sy, sz), mat.paint(rng), "box", turn_z(rng.uniform(-0.6, 0.6)))
    else:
        b.box((x, y, z + 0.003), (0.21, 0.29, 0.006), mat.printed(rng, "page"), "paper", turn_z(rng.uniform(-1.5, 1.5)))


def plant(b: Builder, rng: Random, at: tuple[float, float, float], h: float) -> None:
    x, y, z = at
    pot, w = mat.paint(rng), h * rng.uniform(0.3, 0.45)
    b.column((x, y, z + 0.15 * h), (w, w, 0.3 * h), pot, "otherprop", taper=0.15)
    green = mat.hsv(rng.uniform(0.2, 0.38), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.6))
    for _ in range(int(rng.integers(6, 12))):
        a, tilt, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.1), rng.uniform(0.35, 0.65) * h
        leaf = mat.paint(rng, green * rng.uniform(0.7, 1.3))
        tip = np.array([np.cos(a) * np.sin(tilt), np.sin(a) * np.sin(tilt), np.cos(tilt)]) * reach
        turn = turn_z(a - np.pi / 2) @ turn_x(-tilt)
        b.ball(
            tuple(np.array([x, y, z + 0.32 * h]) + 0.55 * tip),
            (0.16 * h, 0.03 * h, 1.1 * reach),
            leaf,
            "otherprop",
            turn,
        )
