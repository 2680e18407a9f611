"""Surface patterns: functions of a position in texture space, independent of the view.

A pattern gives two weights in 0..1 for mixing three colours: lerp(lerp(colour 0, colour 1, first), colour 2, second). Patterns
of `SOLID` take a point in space, those of `FLAT` two coordinates on the surface. One period is about 1 long.

Letters: k points. `p` are the six numbers of a pattern, each (k,).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

LATTICE = 32

Pair = tuple[Tensor, Tensor]


def weights(kinds: Sequence[str], pattern: Tensor, place: Tensor, flat: Pair, numbers: Tensor) -> Pair:
    """Evaluate the pattern of each point.

    Args:
        kinds: the patterns that occur.
        pattern: (k,) number in `PATTERNS`; a number whose kind is not in `kinds` gives zeros.
        place: (3, k) in the texture's space.
        flat: u, v (k,) from `unroll`.
        numbers: (k, 6).

    Returns:
        the two weights (k,).
    """
    first, second = torch.zeros_like(place[0]), torch.zeros_like(place[0])
    for kind in kinds:
        chosen = (pattern == PATTERNS.index(kind)).nonzero().squeeze(1)
        if chosen.numel() == 0:
            continue
        where = place[:, chosen] if kind in SOLID else torch.stack([flat[0][chosen], flat[1][chosen]])
        first[chosen], second[chosen] = (SOLID.get(kind) or FLAT[kind])(where, numbers[chosen].unbind(1))
    return first, second


def unroll(place: Tensor, normal: Tensor, turns: Tensor) -> Pair:
    """Return texture coordinates on a surface.

    Args:
        place: (3, k) in the texture's space.
        normal: (3, k) in the same axes.
        turns: (k,) periods around the z axis for wrapping as around a can, or 0 for the faces of a box.

    Returns:
        u, v (k,); v is z wherever the surface is steep.
    """
    x, y, z = place
    size = normal.abs()
    top = size[2] >= torch.maximum(size[0], size[1])
    front = size[0] > size[1]
    u, v = torch.where(top | ~front, x, y), torch.where(top, y, z)
    # Shifted by whole periods, so that the faces of a box show different cells of one grid.
    side = torch.where(top, 0, torch.where(front, 1, 2)) + 3 * (torch.where(top, normal[2], normal[0] + normal[1]) > 0)
    around = torch.atan2(y, x) * (turns / (2 * torch.pi))
    wrapped = (turns > 0) & ~top
    return torch.where(wrapped, around, u + 13 * side), torch.where(wrapped, z, v)


def noise(place: Tensor) -> Tensor:
    """Return smooth noise (k,) in -1..1 with features of size 1, period `LATTICE`, at points (3, k)."""
    whole = place.floor()
    part = place - whole
    smooth = torch.remainder(whole, LATTICE) + part * part * (3 - 2 * part)
    grid = (smooth * (2 / LATTICE) - 1).T[None, None, None]
    volume = _lattice(place.dtype, place.device)
    return torch.nn.functional.grid_sample(volume, grid, mode="bilinear", align_corners=True).view(-1)


def rough_noise(place: Tensor) -> Tensor:
    """Return noise (k,) with three octaves, roughly in -1..1."""
    total = noise(place)
    for i in (1, 2):
        total = total + noise(place * 2.03**i + 5.7 * i) * 0.55**i
    return total


def cell_value(*cell: Tensor, salt: float | Tensor = 0) -> Tensor:
    """Return a number (k,) in 0..1 for each cell of a grid, the same on every machine."""
    mixed = torch.full_like(cell[0], 0x2545F491, dtype=torch.long)
    for coordinate in (*cell, salt):
        value = coordinate.long() if isinstance(coordinate, Tensor) else int(coordinate)
        mixed = ((mixed ^ (value & 0xFFFFFF)) * 0x9E3779B1) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return ((mixed * 0x85EBCA6B & 0xFFFFFFFF) >> 8).to(cell[0].dtype) / (1 << 24)


@lru_cache(maxsize=8)
def _lattice(dtype: torch.dtype, device: torch.device) -> Tensor:
    values = np.random.default_rng(2505_23884).uniform(-1, 1, (LATTICE,) * 3)
    return torch.from_numpy(np.pad(values, (0, 1), mode="wrap"))[None, None].to(device, dtype)


def _step(low: float | Tensor, high: float | Tensor, value: Tensor) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _plain(q: Tensor, p: Sequence) -> Pair:
    return torch.zeros_like(q[0]), torch.zeros_like(q[0])


def _stripes(q: Tensor, p: Sequence) -> Pair:
    position = q[0] + p[1] * noise(q * 0.7)
    along = position - position.floor()
    return (along < p[0]).to(q.dtype), ((along - 0.8).abs() < p[2]).to(q.dtype)


def _blocks(q: Tensor, p: Sequence) -> Pair:
    cell = q.floor()
    odd = torch.remainder(cell.sum(0), 2)
    return odd, p[0] * cell_value(*cell, salt=p[5])


def _clouds(q: Tensor, p: Sequence) -> Pair:
    sharpness = p[0]
    value = rough_noise(q)
    return (0.5 + value * sharpness).clamp(0, 1), _step(0.1, 0.1 + 1 / sharpness, noise(q * 0.8 + 9.2))


def _gradient(q: Tensor, p: Sequence) -> Pair:
    return 0.5 + 0.5 * torch.sin(torch.pi * q[0]), 0.25 + 0.25 * torch.sin(torch.pi * (0.8 * q[1] + 0.5 * q[2]))


def _marble(q: Tensor, p: Sequence) -> Pair:
    vein = torch.sin(2 * torch.pi * q[0] + (2 + 3 * p[1]) * rough_noise(q * 0.9)).abs()
    return 1 - _step(0.0, 0.2 + 0.6 * p[0], vein), _step(0.0, 1.0, noise(q * 0.5 + 3.1)) * 0.6


def _wood(q: Tensor, p: Sequence) -> Pair:
    radius = (q[0].square() + q[1].square()).sqrt() + 0.35 * noise(q * torch.tensor([[0.6], [0.6], [0.15]]).to(q))
    ring = radius - radius.floor()
    grain = noise(q * torch.tensor([[9.0], [9.0], [0.7]]).to(q))
    return _step(0.2, 0.85, ring) * (1 - _step(0.9, 1.0, ring)), (0.15 + 0.25 * grain).clamp(0, 1)


def _spots(q: Tensor, p: Sequence) -> Pair:
    cell = q.floor()
    radius = p[0] * (0.6 + 0.4 * cell_value(*cell, salt=p[5]))
    distance = torch.zeros_like(q[0])
    for i in range(3):
        centre = 0.5 + (0.5 - radius) * (2 * cell_value(*cell, salt=p[5] + i + 1) - 1)
        distance = distance + (q[i] - cell[i] - centre).square()
    inside = (distance < radius.square()).to(q.dtype)
    return inside, inside * (cell_value(*cell, salt=p[5] + 4) < p[1])


def _bricks(q: Tensor, p: Sequence) -> Pair:
    row = (q[1] * 2).floor()
    u, v = q[0] + 0.5 * torch.remainder(row, 2), q[1] * 2 - row
    column = u.floor()
    u = u - column
    joint = (u < p[0]) | (v < 2 * p[0])
    return joint.to(q.dtype), torch.where(joint, 0, p[1] * cell_value(column, row, salt=p[5]))


def _tiles(q: Tensor, p: Sequence) -> Pair:
    cell = q.floor()
    part = q - cell
    joint = (part < p[0]).any(0)
    return torch.remainder(cell.sum(0), 2), torch.maximum(joint.to(q.dtype), p[1] * cell_value(*cell, salt=p[5]))


def _patches(q: Tensor, p: Sequence) -> Pair:
    coarse = (q * 0.5).floor()
    merged = cell_value(*coarse, salt=p[5]) < 0.4
    cell = torch.where(merged, coarse * 2, q.floor())
    return (cell_value(*cell, salt=p[5] + 1) < 0.5).to(q.dtype), _step(0.45, 0.55, cell_value(*cell, salt=p[5] + 2)) * p[1]


def _rings(q: Tensor, p: Sequence) -> Pair:
    cell = q.floor()
    radius = (q - cell - 0.5).square().sum(0).sqrt()
    wave = torch.remainder(radius * (4 + 4 * p[0]), 1)
    inside = radius < 0.46
    return (inside & (wave < 0.5)).to(q.dtype), (radius < 0.12).to(q.dtype) * (cell_value(*cell, salt=p[5]) < 0.7)


def _zigzag(q: Tensor, p: Sequence) -> Pair:
    tooth = (torch.remainder(q[0], 1) - 0.5).abs()
    along = torch.remainder(q[1] + 2 * p[1] * tooth, 1)
    return (along < p[0]).to(q.dtype), ((along - 0.75).abs() < 0.1 * p[2]).to(q.dtype)


def _plaid(q: Tensor, p: Sequence) -> Pair:
    u, v = torch.remainder(q, 1)
    wide = 0.5 * (u < p[0]).to(q.dtype) + 0.5 * (v < p[0]).to(q.dtype)
    thin = torch.maximum(((u - 0.75).abs() < 0.05).to(q.dtype), ((v - 0.75).abs() < 0.05).to(q.dtype))
    return wide, 0.7 * thin


def _glyphs(q: Tensor, p: Sequence) -> Pair:
    """Draw a line of letter-like signs: in each cell some of nine strokes of a grid."""
    row = q[1].floor()
    column = (q[0] * 1.4).floor()
    u, v = q[0] * 1.4 - column, q[1] - row
    half = 0.05 + 0.07 * p[0]
    ink = torch.zeros_like(u, dtype=torch.bool)
    for i, (x0, x1, y0, y1) in enumerate(_STROKES):
        drawn = cell_value(column, row, salt=p[5] + i) < 0.55
        cross_u = (u - torch.clamp(u, x0, x1)).abs()
        cross_v = (v - torch.clamp(v, y0, y1)).abs()
        ink |= drawn & (torch.maximum(cross_u, cross_v) < half)
    written = (cell_value(column, row, salt=p[5] + 11) < 0.85) & (cell_value(row, salt=p[5] + 12) < 0.3 + 0.7 * p[1])
    return (ink & written).to(q.dtype), torch.zeros_like(u)


_STROKES = (
    *((0.22, 0.74, y, y) for y in (0.18, 0.5, 0.82)),
    *((x, x, y, y + 0.32) for x in (0.22, 0.74) for y in (0.18, 0.5)),
    (0.48, 0.48, 0.18, 0.5),
    (0.48, 0.48, 0.5, 0.82),
)

SOLID = {
    "plain": _plain,
    "stripes": _stripes,
    "blocks": _blocks,
    "clouds": _clouds,
    "gradient": _gradient,
    "marble": _marble,
    "wood": _wood,
    "spots": _spots,
}
FLAT = {
    "bricks": _bricks,
    "tiles": _tiles,
    "patches": _patches,
    "rings": _rings,
    "zigzag": _zigzag,
    "plaid": _plaid,
    "glyphs": _glyphs,
}
PATTERNS = (*SOLID, *FLAT)
