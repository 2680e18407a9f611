"""Procedural materials in natural colours.

Every function draws from the numpy generator it is given and from nothing else.
"""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np

from data.synthetic.tables import Material, Pattern

# Display colours (sRGB, hexadecimal) of common photo subjects, roughly from dark to bright within a row.
PALETTES = {
    "wood": "4a3222 6e4a2f 8f6238 b3834f c9a06b e0c496",
    "stone": "4d4b49 6b6864 8a8680 a8a39b c4bfb5 ddd8cf",
    "brick": "5a2a20 7d3a2a 9c4a35 b5654c c98a6e d9b49c",
    "leaf": "24361f 3a5228 567236 7a9448 a3b566 cdd39a",
    "earth": "3d2b1f 5b4230 7a5c41 9b7a58 bb9c77 d8c3a0",
    "sea": "16303f 1f4a5f 2f6f86 4f97a8 86bfc6 c3e0e0",
    "night": "14182b 232a4a 38457a 5a6aa5 8f9bc7 c7cde4",
    "fruit": "7a1420 b3202c d9452f ec8034 f3b63f f7dc7c",
    "flower": "5a1d4a 8c2f6b b9528f d885ae ecb4c8 f6dde4",
    "toy": "c8262f 1f62b4 f0c419 2f9a4a f07f1f f4f1ea",
    "pastel": "7fa8c9 9fc7b0 f0c9a8 e8a7a7 c9b3d9 f4ead2",
    "skin": "4b2e22 70472f 96623f b98358 d7a981 ecd0b3",
    "metal": "3a3d42 585d64 7c828a 9fa5ac c2c6ca e3e5e6",
    "gold": "4f3a14 7a5a1f a8812f cfa94a e6c877 f5e6b5",
    "paper": "2b2a28 8f8676 c9bda6 e3dac6 f0eadb faf7ef",
    "ceramic": "24406e 3f6fa8 c24b3a d9d4c8 efece4 fbfaf6",
    "cloth": "2f3b52 5b3a49 8a4b45 64705a a69a7d d9cdb4",
    "rubber": "17181a 2a2c2f 43464a c4351f e0b21c ececea",
}
_LINEAR = {
    name: np.array([[int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)] for colour in row.split()]) ** 2
    for name, row in PALETTES.items()
}
NAMES = tuple(PALETTES)

# How often each pattern is drawn.
_FREQUENT = {
    "plain": 6, "clouds": 5, "gradient": 3, "stripes": 4, "wood": 3, "marble": 2, "blocks": 2, "spots": 3,
    "bricks": 3, "tiles": 3, "patches": 4, "rings": 2, "zigzag": 2, "plaid": 2, "glyphs": 4,
}  # fmt: skip
_OVERLAYS = ("glyphs", "stripes", "spots", "rings", "clouds", "patches", "zigzag")


def pick_palette(rng: np.random.Generator, names: Sequence[str] = ()) -> np.ndarray:
    """Draw a palette (6, 3) of linear colours, shifted a little.

    Args:
        rng: the only source of randomness.
        names: keys of `PALETTES` to draw from; by default all, and occasionally colours around a random hue.
    """
    if names or rng.random() < 0.8:
        names = names or NAMES
        colours = _LINEAR[names[int(rng.integers(len(names)))]]
    else:
        hue, spread = rng.random(), rng.uniform(0.02, 0.25)
        hues, saturations = hue + spread * rng.standard_normal(6), rng.beta(2, 2, 6)
        values = np.linspace(0.2, 0.95, 6)
        colours = np.array([colorsys.hsv_to_rgb(h % 1, s, x) for h, s, x in zip(hues, saturations, values, strict=True)]) ** 2
    tint = np.exp(0.12 * rng.standard_normal(3))
    return (colours * tint).clip(0.004, 0.95)


def random_material(
    rng: np.random.Generator, palette: np.ndarray, coarse: float = 1.0, kind: str | None = None, calm: bool = False
) -> Material:
    """Draw a material.

    Args:
        rng: the only source of randomness.
        palette: (6, 3) linear colours.
        coarse: the size of the pattern's features relative to those on an object of size 1.
        kind: the pattern; drawn by default.
        calm: no overlay and little contrast, for large surfaces.
    """
    kind = kind or _draw(rng, _FREQUENT)
    colours = palette[rng.permutation(6)[:4]]
    if calm or rng.random() < 0.25:
        colours = colours[:1] + (colours - colours[:1]) * rng.uniform(0.25, 0.6)
    if kind == "glyphs" and np.ptp(colours[:2].mean(1)) < 0.15:
        colours[1] = 0.9 if colours[0].mean() < 0.3 else 0.02
    overlay = None
    if not calm and rng.random() < 0.22:
        overlay = _pattern(rng, _OVERLAYS[rng.integers(len(_OVERLAYS))], coarse)
    shiny = rng.random() < 0.45
    bumpy = rng.random() < 0.2
    return Material(
        colours=colours,
        pattern=_pattern(rng, kind, coarse),
        overlay=overlay,
        grain=rng.uniform(0.02, 0.2) * rng.random(),
        grain_frequency=np.exp(rng.uniform(np.log(4), np.log(16))) / coarse,
        bump=rng.uniform(0.02, 0.12) if bumpy else 0.0,
        bump_frequency=np.exp(rng.uniform(np.log(5), np.log(14))) / coarse,
        specular=rng.uniform(0.03, 0.35) if shiny else 0.0,
        shininess=np.exp(rng.uniform(np.log(8), np.log(90))),
    )


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation (3, 3), uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def _draw(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = list(weights)
    share = np.cumsum(list(weights.values()), dtype=np.float64)
    return names[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]


def _pattern(rng: np.random.Generator, kind: str, coarse: float) -> Pattern:
    low, high = {"gradient": (0.5, 1.6), "clouds": (1.2, 6.0), "wood": (2.0, 7.0), "marble": (0.8, 3.0)}.get(kind, (1.5, 8.0))
    if kind in ("rings", "glyphs", "bricks"):
        low, high = 2.0, 7.0
    frequency = np.full(3, np.exp(rng.uniform(np.log(low), np.log(high))) / coarse)
    if rng.random() < 0.3:
        frequency *= np.exp(0.4 * rng.standard_normal(3))
    numbers = (*rng.random(5), float(rng.integers(1 << 20)))
    numbers = _in_range(kind, numbers)
    straight = kind in ("bricks", "glyphs", "tiles", "patches", "rings", "plaid", "zigzag") or rng.random() < 0.5
    rotation = np.eye(3)
    if not straight:
        rotation = random_rotation(rng)
    elif kind in ("stripes", "wood", "gradient"):
        rotation = np.eye(3)[rng.permutation(3)]
    wraps = straight and rng.random() < 0.5
    offset = rng.uniform(-40, 40, 3)
    if wraps:
        rotation, offset = np.eye(3), np.array([0, 0, offset[2]])
    elif kind == "wood":
        offset = rng.uniform(-2, 2, 3)
    return Pattern(kind, numbers, rotation, frequency, offset, bool(wraps))


def _in_range(kind: str, numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Map six numbers, five in 0..1 and a salt, to the ranges of the pattern's parameters."""
    a, b, c, d, e, salt = numbers
    if kind == "stripes":
        return 0.25 + 0.5 * a, 0.35 * b * (c < 0.4), 0.07 * (d < 0.5), d, e, salt
    if kind == "clouds":
        return 0.6 + 2.5 * a * a, b, c, d, e, salt
    if kind == "spots":
        return 0.22 + 0.25 * a, 0.5 * b, c, d, e, salt
    if kind in ("bricks", "tiles"):
        return 0.04 + 0.08 * a, 0.8 * b, c, d, e, salt
    if kind in ("zigzag", "plaid"):
        return 0.3 + 0.4 * a, b, c, d, e, salt
    return numbers
