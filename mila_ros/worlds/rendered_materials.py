"""Materials of the rendered world: a texture, three colours, and how much a surface shines or glows.

Colours are linear reflectances. Each function draws one plausible material of its kind.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.rendered_textures import LAYERS

Random = np.random.Generator
Material = npt.NDArray[np.float32]
Colour = npt.NDArray[np.float64]

COLOURS = slice(0, 9)
LAYER, SCALE_U, SCALE_V, OFFSET_U, OFFSET_V, FIT, SWAP, GLOSS, GLOW = range(9, 18)
FIELDS = 18
"""Numbers a material: three colours; layer; textures a metre along u and v; offsets; 1 to stretch one texture over a
face; 1 to turn it by 90 degrees; share of shine; radiance of its own in multiples of its colour."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A linear colour from hue, saturation and value as a screen shows them."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))) ** 2.2


def material(
    rng: Random,
    texture: str,
    colours: list[Colour],
    size: float = 1.0,
    *,
    fit: bool = False,
    swap: bool = False,
    gloss: float = 0.0,
    glow: float = 0.0,
) -> Material:
    """A material of up to three colours; size is the side of its texture in metres."""
    row = np.zeros(FIELDS, np.float32)
    while len(colours) < 3:
        colours = [*colours, colours[-1]]
    row[COLOURS] = np.concatenate(colours[:3])
    row[LAYER] = rng.choice(LAYERS[texture])
    row[SCALE_U] = row[SCALE_V] = 1.0 / size
    row[OFFSET_U : OFFSET_V + 1] = 0 if fit else rng.random(2)
    row[FIT], row[SWAP], row[GLOSS], row[GLOW] = fit, swap, gloss, glow
    return row


def _shades(colour: Colour, spread: float) -> list[Colour]:
    return [colour * (1 - spread), np.minimum(colour * (1 + spread), 0.95)]


def any_colour(rng: Random, strong: float = 0.5) -> Colour:
    """A colour of things people own: often grey, brown or dark, sometimes strong."""
    kind = rng.random()
    if kind < 0.3:
        return hsv(rng.uniform(0.05, 0.13), rng.uniform(0.0, 0.2), rng.uniform(0.1, 0.95))
    if kind < 0.55:
        return hsv(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.8))
    hue = rng.choice([rng.normal(0.6, 0.05), rng.normal(0.0, 0.03), rng.random()])
    return hsv(hue, rng.beta(1.3, 2.5) * (0.4 + strong), rng.uniform(0.15, 0.85))


def paint(rng: Random, colour: Colour | None = None, gloss: float = 0.02) -> Material:
    """Paint on furniture or metal."""
    colour = any_colour(rng) if colour is None else colour
    return material(rng, "plain", _shades(colour, 0.06), rng.uniform(0.5, 1.5), gloss=gloss)


def wall(rng: Random) -> Material:
    """A wall: mostly pale paint, sometimes strong paint, wallpaper or bricks."""
    kind = rng.random()
    pale = hsv(
        rng.choice([0.09, 0.12, 0.14, 0.55, 0.35]) + rng.normal(0, 0.03), rng.uniform(0, 0.22), rng.uniform(0.6, 0.95)
    )
    if kind < 0.78:
        return material(rng, rng.choice(["plaster", "plain"]), _shades(pale, 0.03), rng.uniform(0.8, 2.5))
    if kind < 0.9:
        strong = hsv(rng.random(), rng.uniform(0.15, 0.55), rng.uniform(0.35, 0.85))
        return material(rng, "plaster", _shades(strong, 0.04), rng.uniform(0.8, 2.5))
    if kind < 0.965:
        texture = rng.choice(["stripes", "floral", "plaid", "dots"])
        second, third = pale * rng.uniform(0.7, 1.0), pale * rng.uniform(0.6, 1.0) * hsv(rng.random(), 0.15, 1)
        return material(rng, texture, [pale, second, third], rng.uniform(0.4, 1.2))
    brick = hsv(rng.uniform(0.01, 0.07), rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65))
    return material(rng, "bricks", [brick * 0.7, brick * 1.2, hsv(0.1, 0.1, 0.7)], 0.8)


def wood(rng: Random, tone: Colour | None = None, swap: bool = False, gloss: float | None = None) -> Material:
    """Wood from pale birch to dark walnut; swap turns the grain upright."""
    tone = wood_tone(rng) if tone is None else tone
    gloss = rng.uniform(0.02, 0.12) if gloss is None else gloss
    return material(rng, "wood", [tone * 1.25, tone * 0.7], rng.uniform(0.5, 1.2), swap=swap, gloss=gloss)


def wood_tone(rng: Random) -> Colour:
    return hsv(rng.uniform(0.045, 0.095), rng.uniform(0.25, 0.65), rng.uniform(0.2, 0.85))


def floor(rng: Random) -> Material:
    """Planks, carpet, tiles, stone or linoleum."""
    kind = rng.random()
    if kind < 0.4:
        tone = wood_tone(rng)
        gloss = rng.uniform(0.03, 0.2)
        colours = [tone * 1.2, tone * 0.7, tone * 0.25]
        return material(rng, "planks", colours, rng.uniform(0.8, 1.6), swap=bool(rng.integers(2)), gloss=gloss)
    if kind < 0.7:
        colour = hsv(
            rng.choice([0.08, 0.1, 0.6, 0.0]) + rng.normal(0, 0.03), rng.uniform(0.03, 0.4), rng.uniform(0.3, 0.75)
        )
        return material(rng, "carpet", _shades(colour, 0.3), rng.uniform(0.5, 1.0))
    if kind < 0.92:
        colour = hsv(rng.uniform(0.05, 0.15), rng.uniform(0.0, 0.35), rng.uniform(0.4, 0.95))
        grout = colour * rng.uniform(0.35, 0.8)
        texture = "tiles" if rng.random() < 0.8 else "checkered"
        second = colour * (0.8 if texture == "tiles" else rng.uniform(0.15, 0.8))
        return material(rng, texture, [colour, second, grout], rng.uniform(0.8, 2.2), gloss=rng.uniform(0.05, 0.25))
    colour = any_colour(rng, 0.1)
    return material(rng, rng.choice(["granite", "marble"]), [colour, colour * 0.6, colour * 0.3], 1.0, gloss=0.15)


def ceiling(rng: Random) -> Material:
    white = hsv(0.12, rng.uniform(0, 0.1), rng.uniform(0.8, 0.97))
    if rng.random() < 0.25:
        return material(rng, "ceiling", [white, white * 0.8, white * 0.5], 1.2)
    return material(rng, "plaster", _shades(white, 0.03), 1.5)


def fabric(rng: Random, colour: Colour | None = None, plain: float = 0.6) -> Material:
    """Cloth: woven plain or printed."""
    colour = any_colour(rng, 0.6) if colour is None else colour
    if rng.random() < plain:
        return material(rng, rng.choice(["weave", "leather", "carpet"]), _shades(colour, 0.18), rng.uniform(0.3, 0.7))
    texture = rng.choice(["stripes", "plaid", "floral", "dots"])
    return material(rng, texture, [colour, any_colour(rng, 0.6), any_colour(rng)], rng.uniform(0.25, 0.9))


def printed(rng: Random, texture: str, glow: float = 0.0, gloss: float = 0.03) -> Material:
    """A picture, page, rug, screen, ... stretched once over a face."""
    colours = [any_colour(rng, 0.7) for _ in range(3)]
    if texture == "page":
        colours = [hsv(0.13, rng.uniform(0, 0.1), rng.uniform(0.85, 0.95)), hsv(0.1, 0.1, 0.85), hsv(0.6, 0.3, 0.2)]
    return material(rng, texture, colours, fit=True, gloss=gloss, glow=glow)


def books(rng: Random) -> Material:
    row = material(rng, "books", [any_colour(rng, 0.7) for _ in range(3)], rng.uniform(0.5, 0.8), gloss=0.03)
    row[SCALE_V], row[OFFSET_V] = 4.0, 0.0
    return row


def door(rng: Random) -> Material:
    tone = wood_tone(rng) if rng.random() < 0.5 else hsv(0.12, rng.uniform(0, 0.15), rng.uniform(0.6, 0.95))
    return material(rng, "panel", [tone * 1.05, tone * 0.85, tone * 0.45], fit=True, gloss=0.05)


def stone(rng: Random) -> Material:
    """A worktop."""
    colour = hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.25), rng.uniform(0.15, 0.9))
    return material(rng, rng.choice(["granite", "marble"]), [colour, colour * 0.6, colour * 1.3], 0.5, gloss=0.15)


def metal(rng: Random) -> Material:
    colour = hsv(0.1, rng.uniform(0, 0.1), rng.uniform(0.4, 0.85))
    return material(rng, "plain", _shades(colour, 0.05), 0.5, gloss=0.35)


def glowing(rng: Random, colour: Colour, power: float) -> Material:
    return material(rng, "plain", [colour], glow=power)


def skin(rng: Random) -> Material:
    return paint(rng, hsv(rng.uniform(0.045, 0.075), rng.uniform(0.28, 0.45), rng.uniform(0.35, 0.92)), gloss=0.02)


def outdoors(rng: Random, power: float) -> Material:
    """What is seen through a window, bright as day or dim."""
    sky = hsv(0.58, rng.uniform(0.02, 0.3), 1.0)
    land = hsv(rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.6))
    return material(rng, "outdoors", [sky, sky * 0.8, land], fit=True, glow=power, gloss=0.1)
