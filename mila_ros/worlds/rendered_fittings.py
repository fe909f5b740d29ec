"""More of the rendered world's furnishings: kitchens, bathrooms, lamps, and what hangs on walls or lies about."""

from __future__ import annotations

from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_furniture import Piece, Random, Top, small_thing
from mila_ros.worlds.rendered_scene import Builder, turn_z


def kitchen(rng: Random, length: float) -> Piece:
    """A run of base cabinets with a worktop, a sink, a stove, wall cabinets, and often a refrigerator at its end."""
    cold = rng.uniform(0.65, 0.8) if length > 2.0 and rng.random() < 0.75 else 0.0
    w, d, h = length, 0.62, rng.uniform(0.86, 0.94)
    front = (
        mat.wood(rng, swap=True)
        if rng.random() < 0.5
        else mat.paint(rng, mat.hsv(rng.random(), 0.15, rng.uniform(0.5, 0.95)))
    )
    leaf = mat.door(rng) if rng.random() < 0.3 else front
    top, knob = mat.stone(rng), mat.metal(rng)
    side = rng.choice([-1, 1])
    run = w - cold
    centre = -side * cold / 2
    n = max(2, round(run / 0.5))
    high, tall = rng.uniform(1.4, 1.5), rng.uniform(0.6, 0.8)
    white = mat.paint(rng, mat.hsv(0.1, 0.03, rng.uniform(0.2, 0.95)), gloss=0.2)
    splash = mat.material(
        rng, "tiles", [mat.hsv(rng.random(), 0.1, 0.9), mat.hsv(rng.random(), 0.15, 0.8), mat.hsv(0, 0, 0.6)], 0.6
    )

    def handles(b: Builder, x: float, y: float, z: float, width: float) -> None:
        b.capsule((x - width / 2, y, z), (x + width / 2, y, z), 0.008, knob, "cabinet")

    def build(b: Builder) -> None:
        b.box((centre, -0.02, 0.05), (run, d - 0.1, 0.1), mat.paint(rng, mat.hsv(0, 0, 0.15)), "cabinet")
        b.box((centre, -0.02, 0.1 + (h - 0.14) / 2), (run, d - 0.05, h - 0.14), front, "cabinet")
        b.box((centre, 0.0, h - 0.02), (run, d + 0.02, 0.04), top, "counter")
        b.box((centre, -d / 2 + 0.006, (h + high) / 2), (run, 0.01, high - h), splash, "wall")
        pitch = run / n
        hood = int(rng.integers(0, n))
        for k in range(n):
            x = centre + (k + 0.5) * pitch - run / 2
            if k == hood:
                b.box((x, 0.0, 0.1 + (h - 0.14) / 2), (pitch - 0.01, d - 0.02, h - 0.15), white, "other_furniture")
                b.box(
                    (x, d / 2 - 0.005, 0.4),
                    (pitch - 0.1, 0.012, 0.35),
                    mat.paint(rng, mat.hsv(0, 0, 0.1), 0.2),
                    "other_furniture",
                )
                b.box(
                    (x, 0, h + 0.003),
                    (pitch - 0.03, d - 0.1, 0.008),
                    mat.paint(rng, mat.hsv(0, 0, 0.1), 0.2),
                    "other_furniture",
                )
            else:
                b.box((x, d / 2 - 0.035, 0.32), (pitch - 0.012, 0.02, 0.42), leaf, "cabinet")
                b.box((x, d / 2 - 0.035, h - 0.16), (pitch - 0.012, 0.02, 0.18), front, "cabinet")
                handles(b, x, d / 2, h - 0.16, 0.12)
                handles(b, x, d / 2, 0.48, 0.12)
            if k != hood or rng.random() < 0.5:
                b.box((x, -d / 2 + 0.17, high + tall / 2), (pitch - 0.004, 0.33, tall), front, "cabinet")
                b.box((x, -d / 2 + 0.34, high + tall / 2), (pitch - 0.012, 0.02, tall - 0.015), leaf, "cabinet")
                handles(b, x, -d / 2 + 0.36, high + 0.06, 0.1)
        if n > 2:
            x = centre + ((hood + n // 2) % n + 0.5) * pitch - run / 2
            b.box((x, 0.02, h + 0.001), (min(pitch, 0.6), 0.42, 0.006), knob, "sink")
            b.box(
                (x, 0.02, h + 0.003),
                (min(pitch, 0.6) - 0.06, 0.36, 0.006),
                mat.paint(rng, mat.hsv(0, 0, 0.3), 0.3),
                "sink",
            )
            b.capsule((x, -0.2, h), (x, -0.2, h + 0.25), 0.012, knob, "sink")
            b.capsule((x, -0.2, h + 0.25), (x, -0.02, h + 0.22), 0.012, knob, "sink")
        if cold:
            x, tall_h = side * (w - cold) / 2, rng.uniform(1.55, 1.85)
            b.box((x, 0, tall_h / 2), (cold - 0.02, d, tall_h), white, "refrigerator")
            split = rng.uniform(0.3, 0.7) * tall_h
            for z0, z1 in ((0.06, split - 0.01), (split + 0.01, tall_h - 0.02)):
                b.box((x, d / 2 + 0.02, (z0 + z1) / 2), (cold - 0.03, 0.04, z1 - z0), white, "refrigerator")
                hx = x - side * (cold / 2 - 0.08)
                z = z1 - 0.08 if z0 < 0.2 else z0 + 0.25
                b.capsule((hx, d / 2 + 0.065, z - 0.15), (hx, d / 2 + 0.065, z), 0.013, knob, "refrigerator")

    pieces: list[Top] = [(centre - run / 2 + 0.1, centre + run / 2 - 0.1, -d / 2 + 0.08, d / 2 - 0.15, h)]
    return Piece(w, d, 2.2, build, pieces)


def toilet(rng: Random) -> Piece:
    white = mat.paint(rng, mat.hsv(0.12, rng.uniform(0, 0.1), 0.93), gloss=0.2)

    def build(b: Builder) -> None:
        b.box((0, -0.26, 0.58), (0.4, 0.18, 0.36), white, "toilet")
        b.column((0, 0.0, 0.2), (0.26, 0.42, 0.4), white, "toilet", taper=0.15)
        b.column((0, 0.05, 0.41), (0.38, 0.5, 0.05), white, "toilet")
        b.box((0, -0.1, 0.3), (0.22, 0.3, 0.25), white, "toilet")

    return Piece(0.42, 0.7, 0.78, build)


def washstand(rng: Random) -> Piece:
    """A basin in a cabinet or on a foot, with a tap; hang a mirror above."""
    w = rng.uniform(0.5, 1.2)
    white, case, knob = mat.paint(rng, mat.hsv(0.12, 0.03, 0.93), 0.2), mat.wood(rng), mat.metal(rng)
    foot = rng.random() < 0.4

    def build(b: Builder) -> None:
        if foot:
            b.column((0, -0.05, 0.36), (0.18, 0.18, 0.72), white, "sink")
            b.box((0, 0, 0.8), (min(w, 0.6), 0.46, 0.14), white, "sink")
            b.ball((0, 0.03, 0.88), (0.42, 0.32, 0.03), mat.paint(rng, mat.hsv(0, 0, 0.75), 0.2), "sink")
        else:
            b.box((0, 0, 0.4), (w, 0.46, 0.8), case, "cabinet")
            for x in (-w / 4, w / 4):
                b.box((x, 0.235, 0.4), (w / 2 - 0.02, 0.02, 0.68), case, "cabinet")
                b.ball((x * 0.3, 0.255, 0.5), (0.03, 0.03, 0.03), knob, "cabinet")
            b.box((0, 0, 0.82), (w + 0.02, 0.5, 0.04), mat.stone(rng), "counter")
            b.ball((0, 0.03, 0.84), (0.44, 0.34, 0.05), white, "sink")
        b.capsule((0, -0.18, 0.84), (0, -0.18, 0.97), 0.013, knob, "sink")
        b.capsule((0, -0.18, 0.97), (0, -0.06, 0.95), 0.012, knob, "sink")

    return Piece(w, 0.5, 0.9, build, [] if foot else [(-w / 2 + 0.06, -0.25, -0.18, 0.1, 0.84)] if w > 0.75 else [])


def bathtub(rng: Random) -> Piece:
    """A tub with a rim, often behind a shower curtain."""
    w, d, h = rng.uniform(1.5, 1.7), rng.uniform(0.7, 0.8), rng.uniform(0.45, 0.58)
    white = mat.paint(rng, mat.hsv(0.12, 0.03, 0.93), gloss=0.25)
    cloth = mat.fabric(rng, mat.hsv(rng.random(), rng.uniform(0, 0.4), 0.85), plain=0.4)
    hung, closed = rng.random() < 0.6, rng.uniform(0.25, 0.8)

    def build(b: Builder) -> None:
        b.box((0, 0, 0.06), (w, d, 0.12), white, "bathtub")
        for x in (-w / 2 + 0.04, w / 2 - 0.04):
            b.box((x, 0, h / 2), (0.08, d, h), white, "bathtub")
        for y in (-d / 2 + 0.04, d / 2 - 0.04):
            b.box((0, y, h / 2), (w - 0.06, 0.08, h), white, "bathtub")
        if hung:
            b.capsule((-w / 2, d / 2, 2.0), (w / 2, d / 2, 2.0), 0.012, mat.metal(rng), "otherprop")
            folds(b, rng, -w / 2 + 0.03, -w / 2 + closed * w, d / 2, 0.3, 1.98, cloth, "shower_curtain")

    return Piece(w, d + 0.06, 2.0 if hung else h, build)


def folds(
    b: Builder, rng: Random, x0: float, x1: float, y: float, z0: float, z1: float, row: mat.Material, label: str
) -> None:
    """Hanging cloth with folds along x."""
    n = max(2, round((x1 - x0) / rng.uniform(0.06, 0.1)))
    pitch = (x1 - x0) / n
    for k in range(n):
        at = (x0 + (k + 0.5) * pitch, y + rng.normal(0, 0.012), (z0 + z1) / 2)
        b.column(at, (pitch * 1.25, rng.uniform(0.05, 0.09), z1 - z0), row, label)


def floor_lamp(rng: Random) -> Piece:
    h, row = rng.uniform(1.3, 1.8), mat.metal(rng)
    shade = mat.glowing(rng, mat.hsv(0.11, rng.uniform(0.1, 0.4), 1.0), rng.choice([0.0, 1.5, 3.0]))
    r = rng.uniform(0.28, 0.42)

    def build(b: Builder) -> None:
        b.column((0, 0, 0.015), (0.28, 0.28, 0.03), row, "lamp")
        b.capsule((0, 0, 0.02), (0, 0, h - 0.2), 0.014, row, "lamp")
        b.column((0, 0, h - 0.13), (r, r, 0.26), shade, "lamp", taper=-rng.uniform(0.1, 0.3), casts=False)

    return Piece(0.4, 0.4, h, build)


def table_lamp(b: Builder, rng: Random, at: tuple[float, float, float]) -> None:
    x, y, z = at
    h, r, row = rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.34), mat.paint(rng, gloss=0.1)
    shade = mat.glowing(rng, mat.hsv(0.11, rng.uniform(0.1, 0.4), 1.0), rng.choice([0.0, 0.8, 2.0]))
    b.column((x, y, z + 0.01), (0.14, 0.14, 0.02), row, "lamp")
    b.ball((x, y, z + 0.25 * h), (0.12, 0.12, 0.5 * h), row, "lamp")
    b.column((x, y, z + 0.77 * h), (r, r, 0.45 * h), shade, "lamp", taper=-rng.uniform(0.1, 0.35), casts=False)


def carton(rng: Random) -> Piece:
    """A cardboard box, or two on each other."""
    w, d, h = rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.45)
    tone = mat.hsv(0.09, rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.75))
    row = mat.paint(rng, tone) if rng.random() < 0.7 else mat.paint(rng)
    two = rng.random() < 0.3

    def build(b: Builder) -> None:
        b.box((0, 0, h / 2), (w, d, h), row, "box")
        b.box((0, 0, h + 0.001), (w * 0.12, d, 0.003), mat.paint(rng, tone * 1.3), "box")
        if two:
            b.box((0.02, 0, h * 1.4), (w * 0.8, d * 0.8, h * 0.8), mat.paint(rng, tone * 0.9), "box", turn_z(0.2))

    return Piece(w, d, h * (1.8 if two else 1), build)


def bag(rng: Random) -> Piece:
    w, h, row = rng.uniform(0.28, 0.45), rng.uniform(0.3, 0.48), mat.fabric(rng, plain=0.8)

    def build(b: Builder) -> None:
        b.ball((0, 0, 0.45 * h), (w, 0.6 * w, 1.05 * h), row, "bag")
        b.box((0, 0, 0.3 * h), (0.85 * w, 0.45 * w, 0.6 * h), row, "bag")
        b.capsule((-0.07, 0, h * 0.95), (0.07, 0, h * 0.95), 0.015, row, "bag")

    return Piece(w, 0.6 * w, h, build)


def laundry(rng: Random) -> Piece:
    """Clothes dropped on the floor."""

    def build(b: Builder) -> None:
        for _ in range(int(rng.integers(2, 6))):
            at = (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0.02, 0.07))
            size = (rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.45), rng.uniform(0.06, 0.18))
            b.ball(at, size, mat.fabric(rng), "clothes", turn_z(rng.uniform(0, 3)))

    return Piece(0.5, 0.5, 0.15, build)


def potted(rng: Random) -> Piece:
    from mila_ros.worlds.rendered_furniture import plant

    h = rng.uniform(0.6, 1.4)
    return Piece(0.5, 0.5, h, lambda b: plant(b, rng, (0, 0, 0), h))


def bin_(rng: Random) -> Piece:
    h, w, row = rng.uniform(0.3, 0.6), rng.uniform(0.22, 0.35), mat.paint(rng)
    return Piece(w, w, h, lambda b: b.column((0, 0, h / 2), (w, w, h), row, "otherprop", taper=0.12))


def picture(b: Builder, rng: Random, x: float, z: float, room: float) -> None:
    """A framed picture on the wall y = 0."""
    w, h = rng.uniform(0.2, min(1.0, room)), rng.uniform(0.2, 0.8)
    frame = mat.wood(rng) if rng.random() < 0.6 else mat.paint(rng, mat.hsv(0, 0, rng.choice([0.1, 0.9])))
    edge, mount = rng.uniform(0.02, 0.05), rng.choice([0.0, 0.06])
    b.box((x, 0.012, z), (w, 0.024, h), frame, "picture")
    if mount:
        b.box((x, 0.0135, z), (w - edge, 0.024, h - edge), mat.paint(rng, mat.hsv(0.12, 0.05, 0.93)), "picture")
    size = (w - edge - mount, 0.024, h - edge - mount)
    b.box((x, 0.015, z), size, mat.printed(rng, "picture", gloss=rng.uniform(0, 0.15)), "picture")


def mirror(b: Builder, rng: Random, x: float, z: float, room: float) -> None:
    """A mirror: what it would show is painted on it, blurred."""
    w, h = rng.uniform(0.4, min(1.1, room)), rng.uniform(0.5, 0.9)
    grey = mat.hsv(rng.uniform(0.1, 0.6), 0.1, rng.uniform(0.4, 0.7))
    glass = mat.material(rng, "picture", [grey, grey * 0.7, mat.any_colour(rng, 0.1)], fit=True, gloss=0.4)
    b.box((x, 0.01, z), (w, 0.02, h), mat.metal(rng), "mirror")
    b.box((x, 0.013, z), (w - 0.03, 0.02, h - 0.03), glass, "mirror")


def whiteboard(b: Builder, rng: Random, x: float, room: float) -> None:
    w, h = rng.uniform(0.9, min(2.4, room)), rng.uniform(0.8, 1.2)
    b.box((x, 0.012, 1.5), (w, 0.024, h), mat.metal(rng), "whiteboard")
    b.box((x, 0.014, 1.5), (w - 0.04, 0.024, h - 0.04), mat.printed(rng, "page", gloss=0.15), "whiteboard")
    b.box((x, 0.04, 1.5 - h / 2), (w * 0.5, 0.06, 0.015), mat.metal(rng), "whiteboard")


def wall_shelf(b: Builder, rng: Random, x: float, room: float) -> None:
    w, z, row = rng.uniform(0.5, min(1.2, room)), rng.uniform(1.2, 1.7), mat.wood(rng)
    for k in range(int(rng.integers(1, 3))):
        b.box((x, 0.12, z + 0.35 * k), (w, 0.24, 0.03), row, "shelves")
        for _ in range(int(rng.integers(1, 5))):
            small_thing(b, rng, (x + rng.uniform(-0.42, 0.42) * w, 0.12, z + 0.015 + 0.35 * k), 0.25)


def towel(b: Builder, rng: Random, x: float) -> None:
    w, h, row = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8), mat.fabric(rng, plain=0.8)
    b.capsule((x - w / 2 - 0.05, 0.06, 1.2), (x + w / 2 + 0.05, 0.06, 1.2), 0.01, mat.metal(rng), "otherprop")
    b.box((x, 0.08, 1.2 - h / 2 + 0.01), (w, 0.03, h), row, "towel")


def notices(b: Builder, rng: Random, x: float, room: float) -> None:
    for _ in range(int(rng.integers(1, 6))):
        at = (x + rng.uniform(-0.4, 0.4) * room, 0.002, rng.uniform(1.1, 1.9))
        size = (rng.uniform(0.15, 0.35), 0.004, rng.uniform(0.2, 0.4))
        b.box(at, size, mat.printed(rng, "page" if rng.random() < 0.6 else "picture"), "paper", casts=False)


def rug(b: Builder, rng: Random, x: float, y: float, w: float, d: float, yaw: float) -> None:
    """A floor mat; it lies on the floor, 8 mm thick."""
    row = mat.printed(rng, "rug", gloss=0.0) if rng.random() < 0.6 else mat.fabric(rng)
    b.box((x, y, 0.004), (w, d, 0.008), row, "floor_mat", turn_z(yaw), casts=False)
