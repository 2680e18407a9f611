"""Procedural objects: a few primitives assembled by one of several plans, z up, centred, half-extent a little below 1.

Every function draws from the numpy generator it is given. Poses map local to world, (3, 4); lengths are relative until
`fit` scales the object.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from data.synthetic.materials import pick_palette, random_material, random_rotation
from data.synthetic.tables import Cut, Description, Light, Material, Numbers, Solid, compose

MOST_SOLIDS = 16
HALF_EXTENT = (0.75, 0.95)

_COMMON = ("ellipsoid", "box", "cylinder", "cone", "capsule", "torus", "round_box", "blob", "metaballs", "frame")
_ROUND = ("ellipsoid", "cylinder", "cone", "torus", "capsule")


def random_object(seed: int, index: int) -> Description:
    """Draw an object, the same for the same (seed, index) on every machine.

    Returns:
        up to `MOST_SOLIDS` solids in a centred box whose largest half-extent is in `HALF_EXTENT`, and its light.
    """
    rng = np.random.default_rng([seed, index])
    solids = fit(object_solids(rng), rng.uniform(*HALF_EXTENT))
    return Description(solids, random_light(rng))


def object_solids(rng: np.random.Generator) -> list[Solid]:
    """Draw the solids of an object of any size and position, z up."""
    palettes = [pick_palette(rng) for _ in range(rng.integers(1, 4))]
    materials = [random_material(rng, palettes[i % len(palettes)]) for i in range(rng.integers(2, 6))]

    def material() -> Material:
        return materials[rng.integers(len(materials))]

    plans, shares = zip(*_PLANS, strict=True)
    plan = plans[int(np.searchsorted(np.cumsum(shares), rng.random() * sum(shares), side="right"))]
    solids = plan(rng, material)[:MOST_SOLIDS]
    if rng.random() < 0.15:
        tilt = _affine(random_rotation(rng))
        solids = [solid.moved(tilt) for solid in solids]
    elif rng.random() < 0.7:
        turn = _affine(_turn_z(rng.uniform(0, 2 * math.pi)))
        solids = [solid.moved(turn) for solid in solids]
    return solids


def fit(solids: Sequence[Solid], half_extent: float) -> list[Solid]:
    """Centre solids and scale them so that the largest half-extent of their bounding box is `half_extent`."""
    low, high = bounding_box(solids)
    scale = half_extent / ((high - low).max() / 2)
    world = np.concatenate([np.eye(3) * scale, -scale * (low + high)[:, None] / 2], axis=1)
    return [solid.moved(world) for solid in solids]


def bounding_box(solids: Sequence[Solid]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest corner (3,) of a box around solids: tight for most kinds, never too small."""
    lows, highs = [], []
    for solid in solids:
        reach = _half_extent(solid.kind, solid.pose, solid.shape)
        low, high = solid.pose[:, 3] - reach, solid.pose[:, 3] + reach
        if solid.cut is not None and solid.cut.keeps:
            cut_reach = _half_extent(solid.cut.kind, solid.cut.pose, solid.cut.shape)
            low = np.maximum(low, solid.cut.pose[:, 3] - cut_reach)
            high = np.minimum(high, solid.cut.pose[:, 3] + cut_reach)
        lows.append(low)
        highs.append(high)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def random_light(rng: np.random.Generator, distance: float = 12.0, centre: Sequence[float] = (0, 0, 0)) -> Light:
    """Draw one to three lamps above and around, and ambient light that leaves no side black."""
    number = rng.integers(1, 4)
    azimuth, height = rng.uniform(0, 2 * math.pi, 3), rng.uniform((0.35, -0.2, -0.2), (0.97, 0.9, 0.9))
    level = np.sqrt(1 - height**2)
    direction = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), height], axis=1)
    ambient = rng.uniform(0.3, 0.8)
    warmth = 0.12 * rng.standard_normal((5, 1)) * (1, 0, -1)
    key = rng.uniform(0.75, 1.2) * (1.05 - ambient) + 0.15
    strength = np.array([key, *(rng.uniform(0.08, 0.35, 2) * (np.arange(1, 3) < number))])
    return Light(
        centre=np.array(centre, dtype=np.float64),
        position=np.array(centre) + distance * direction,
        colour=strength[:, None] * (1 + warmth[:3]),
        radius=distance * rng.uniform(0.02, 0.25),
        above=ambient * rng.uniform(1.0, 1.25) * (1 + warmth[3]),
        below=ambient * rng.uniform(0.5, 0.95) * (1 + warmth[4]),
        occlusion=rng.uniform(0.3, 0.8),
        turn=rng.uniform(0, 2 * math.pi),
    )


def random_shape(rng: np.random.Generator, kind: str) -> tuple[float, ...]:
    """Draw the shape numbers of a kind of solid."""
    if kind == "cone":
        return (rng.choice([0.02, rng.uniform(0.1, 0.8)]),)
    if kind == "capsule":
        return (rng.uniform(0.2, 0.6),)
    if kind == "torus":
        return (rng.uniform(0.12, 0.42),)
    if kind == "frame":
        return (rng.uniform(0.08, 0.3),)
    if kind == "round_box":
        return (rng.uniform(0.1, 0.6),)
    if kind == "blob":
        return (rng.uniform(0.04, 0.16), *rng.uniform(2, 8, 3), *rng.uniform(0, 2 * math.pi, 3))
    if kind == "metaballs":
        radius = rng.uniform(0.3, 0.5, 3)
        centre = rng.standard_normal((3, 3))
        centre *= ((0.92 - radius) / np.linalg.norm(centre, axis=1))[:, None]
        return tuple(np.concatenate([centre, radius[:, None]], axis=1).ravel())
    return ()


def _affine(linear: np.ndarray, offset: Numbers = (0, 0, 0)) -> np.ndarray:
    return np.concatenate([linear, np.array(offset, dtype=np.float64)[:, None]], axis=1)


def _turn_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _pose(size: Numbers, offset: Numbers, rotation: np.ndarray | None = None) -> np.ndarray:
    linear = np.diag(np.array(size, dtype=np.float64))
    return _affine(linear if rotation is None else rotation @ linear, offset)


def _between(start: Numbers, end: Numbers, radius: float) -> np.ndarray:
    """Return the pose of a rod along local z from start to end."""
    first, last = np.array(start, dtype=np.float64), np.array(end, dtype=np.float64)
    z = last - first
    length = np.linalg.norm(z)
    z /= length
    x = np.cross(np.eye(3)[np.abs(z).argmin()], z)
    x /= np.linalg.norm(x)
    return _affine(np.stack([x * radius, np.cross(z, x) * radius, z * length / 2], axis=1), (first + last) / 2)


def _half_extent(kind: str, pose: np.ndarray, shape: Sequence[float]) -> np.ndarray:
    rows = np.abs(pose[:, :3])
    if kind in ("ellipsoid", "blob", "metaballs"):
        return np.linalg.norm(rows, axis=1)
    if kind in ("cylinder", "cone"):
        return np.linalg.norm(rows[:, :2], axis=1) + rows[:, 2]
    if kind == "capsule":
        return shape[0] * np.linalg.norm(rows, axis=1) + (1 - shape[0]) * rows[:, 2]
    if kind == "torus":
        return (1 - shape[0]) * np.linalg.norm(rows[:, :2], axis=1) + shape[0] * np.linalg.norm(rows, axis=1)
    return rows.sum(axis=1)


def _some_kind(rng: np.random.Generator) -> str:
    return _COMMON[int(len(_COMMON) * rng.random() ** 1.3)]


def _some_solid(rng: np.random.Generator, material: Material, size: float, offset: np.ndarray, kind: str | None = None) -> Solid:
    kind = kind or _some_kind(rng)
    stretch = np.exp(rng.normal(0, 0.45, 3))
    if kind in ("capsule", "torus"):
        stretch = np.array([1, np.exp(rng.normal(0, 0.12)), 1.0])
    rotation = random_rotation(rng) if rng.random() < 0.5 else _turn_z(rng.uniform(0, math.pi))
    solid = Solid(kind, _pose(size * stretch, offset, rotation), material, random_shape(rng, kind))
    return _with_cut(rng, solid) if rng.random() < 0.25 else solid


def _with_cut(rng: np.random.Generator, solid: Solid) -> Solid:
    """Cut a random piece out of a convex solid, or intersect it with another."""
    if solid.kind not in ("ellipsoid", "box", "cylinder", "cone"):
        return solid
    kind = ("ellipsoid", "box", "cylinder", "cone")[rng.integers(4)]
    if rng.random() < 0.25:
        local = _pose(rng.uniform(0.7, 1.1, 3), rng.uniform(-0.4, 0.4, 3), random_rotation(rng))
        keeps = True
    else:
        offset = rng.standard_normal(3)
        offset *= rng.uniform(0.5, 1.0) / np.linalg.norm(offset)
        local = _pose(rng.uniform(0.35, 0.8, 3), offset, random_rotation(rng))
        keeps = False
    return replace(solid, cut=Cut(kind, compose(solid.pose, local), (0.5,) if kind == "cone" else (), keeps))


def _cluster(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """A heap: each solid is attached to the side of an earlier one."""
    solids = [_some_solid(rng, material(), 0.7, np.zeros(3))]
    for _ in range(rng.integers(0, 8)):
        parent = solids[rng.integers(len(solids))].pose
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        offset = parent[:, 3] + parent[:, :3] @ direction * rng.uniform(0.5, 1.0)
        solids.append(_some_solid(rng, material(), rng.uniform(0.25, 0.6), offset))
    return solids


def _single(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """One solid, perhaps with a second one growing out of it."""
    solids = [_with_cut(rng, _some_solid(rng, material(), 1.0, np.zeros(3)))]
    if rng.random() < 0.5:
        solids.append(_some_solid(rng, material(), 0.5, rng.normal(0, 0.4, 3)))
    return solids


def _stack(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """Solids piled on one axis: towers, vases, lamps, snowmen."""
    solids, height = [], 0.0
    round_ones = rng.random() < 0.7
    width = rng.uniform(0.3, 0.8)
    for _ in range(rng.integers(2, 8)):
        kind = _ROUND[rng.integers(5)] if round_ones else ("box", "round_box", "frame", "cylinder")[rng.integers(4)]
        shape = random_shape(rng, kind)
        width = np.clip(width * math.exp(rng.normal(-0.1, 0.4)), 0.12, 1.0)
        half = rng.uniform(0.08, 0.5)
        flat = half / shape[0] if kind == "torus" and shape[0] * width < half else (width if kind == "torus" else half)
        size = (width, width, min(flat, width) if kind == "torus" else half)
        real_half = size[2] * (shape[0] if kind == "torus" else 1)
        height += real_half * rng.uniform(0.8, 1.0)
        rotation = None if round_ones else _turn_z(rng.normal(0, 0.3))
        solids.append(Solid(kind, _pose(size, (0, 0, height), rotation), material(), shape))
        height += real_half
    return solids


def _symmetric(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """Copies of limbs around a body, turned about z or mirrored."""
    solids = [_some_solid(rng, material(), rng.uniform(0.4, 0.7), np.zeros(3))]
    copies = rng.integers(2, 7)
    mirrored = rng.random() < 0.4
    for _ in range(rng.integers(1, 4 if copies < 5 else 3)):
        angle = rng.uniform(0, 2 * math.pi)
        offset = np.array([math.cos(angle), math.sin(angle), rng.normal(0, 0.5)]) * rng.uniform(0.35, 0.75)
        limb = _some_solid(rng, material(), rng.uniform(0.15, 0.4), offset)
        if mirrored:
            solids += [limb, limb.moved(_affine(np.diag((1.0, -1.0, 1.0))))]
        else:
            solids += [limb.moved(_affine(_turn_z(2 * math.pi * i / copies))) for i in range(copies)]
    return solids


def _furniture(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """A table, stool, chair or shelf: plates on legs."""
    wide, deep, tall = rng.uniform(0.4, 1.0), rng.uniform(0.35, 0.8), rng.uniform(0.4, 1.1)
    thick = rng.uniform(0.03, 0.12)
    plate, post = material(), material()
    round_top = rng.random() < 0.3
    solids = [Solid("cylinder" if round_top else "box", _pose((wide, deep, thick), (0, 0, tall)), plate)]
    leg, lean = rng.uniform(0.03, 0.11), rng.uniform(0.0, 0.25)
    kind = ("box", "cylinder", "capsule")[rng.integers(3)]
    inset = 0.6 if round_top else 0.88
    for x in (-1, 1):
        for y in (-1, 1):
            top = np.array([x * wide * inset, y * deep * inset, tall])
            foot = np.array([x * wide * (inset + lean), y * deep * (inset + lean), -tall * 0.5])
            length = np.linalg.norm(top - foot) / 2
            shape = (leg / length,) if kind == "capsule" else ()
            pose = _between(foot, top, length if kind == "capsule" else leg)
            solids.append(Solid(kind, pose, post, shape))
    heights = rng.uniform(-0.3, 0.8, rng.integers(0, 3)) * tall
    solids += [Solid("box", _pose((wide * 0.9, deep * 0.9, thick), (0, 0, height)), plate) for height in heights]
    if rng.random() < 0.4:
        back = rng.uniform(0.3, 0.9)
        solids.append(Solid("round_box", _pose((thick, deep, back / 2), (-wide, 0, tall + back / 2)), material(), (0.3,)))
    for _ in range(rng.integers(0, 4)):
        size = rng.uniform(0.1, 0.3)
        place = np.array([rng.uniform(-0.6, 0.6) * wide, rng.uniform(-0.6, 0.6) * deep, tall + thick + size])
        solids.append(_some_solid(rng, material(), size, place))
    return solids


def _creature(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """A toy animal or person, mirrored at y = 0."""
    body, skin, dark = material(), material(), material()
    upright = rng.random() < 0.5
    length, width, height = rng.uniform(0.45, 0.8), rng.uniform(0.28, 0.5), rng.uniform(0.3, 0.6)
    if upright:
        length, height = height, length
    trunk = ("ellipsoid", "round_box", "blob", "cylinder", "metaballs")[rng.integers(5)]
    solids = [Solid(trunk, _pose((length, width, height), (0, 0, 0)), body, random_shape(rng, trunk))]
    head = rng.uniform(0.2, 0.42)
    centre = np.array([0.1, 0, height + head * 0.7]) if upright else np.array([length + head * 0.4, 0, height * 0.8])
    skull = ("ellipsoid", "round_box", "ellipsoid")[rng.integers(3)]
    solids.append(Solid(skull, _pose(head * np.exp(rng.normal(0, 0.15, 3)), centre), skin, (0.6,) if skull == "round_box" else ()))
    limb = rng.uniform(0.07, 0.15)
    joints = (-0.55, 0.55) if not upright else (0.0,)
    parts = [((x * length, 0.75 * width, -0.4 * height), (x * length, 0.85 * width, -height - 0.45)) for x in joints]
    if upright:
        parts.append(((0, 0.9 * width, 0.6 * height), (rng.uniform(-0.2, 0.5), width + rng.uniform(0.2, 0.5), rng.normal(0, 0.3))))
    ear = rng.uniform(0.05, 0.16)
    pairs = [_rod(start, end, limb, skin) for start, end in parts]
    pairs.append(Solid("ellipsoid", _pose((ear * 0.6, ear, ear * rng.uniform(1, 2)), centre + (0, head * 0.75, head * 0.75)), body))
    eye = head * rng.uniform(0.12, 0.25)
    pairs.append(Solid("ellipsoid", _pose((eye,) * 3, centre + head * np.array([0.82, 0.4, 0.2])), dark))
    solids += pairs + [solid.moved(_affine(np.diag((1.0, -1.0, 1.0)))) for solid in pairs]
    if rng.random() < 0.5:
        solids.append(_rod((-length * 0.9, 0, 0.2 * height), (-length - 0.4, 0, rng.uniform(0, 0.8)), limb * 0.7, body))
    return solids


def _rod(start: Numbers, end: Numbers, radius: float, material: Material) -> Solid:
    length = float(np.linalg.norm(np.array(end) - np.array(start))) / 2 + radius
    middle, along = (np.array(start) + np.array(end)) / 2, (np.array(end) - np.array(start)) / (2 * (length - radius))
    pose = _between(middle - along * length, middle + along * length, length)
    return Solid("capsule", pose, material, (radius / length,))


def _vessel(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """A hollow cup, bowl, box or tube, perhaps with handles and something in it."""
    kind = ("cylinder", "cone", "ellipsoid", "box")[rng.integers(4)]
    wide, tall = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.9)
    wall = rng.uniform(0.06, 0.15)
    linear = np.diag((wide, wide * (rng.uniform(0.5, 1.0) if kind == "box" else 1), -tall if kind == "cone" else tall))
    inner = _pose((1 - wall, 1 - wall, 1), (0, 0, -wall - 0.02 if kind == "cone" else wall + 0.02))
    shape = (rng.uniform(0.45, 0.9),) if kind == "cone" else ()
    pose = _affine(linear)
    if kind == "ellipsoid":
        cut = Cut("cylinder", _pose((wide * 0.8, wide * 0.8, tall), (0, 0, rng.uniform(0.7, 1.0) * tall)))
    else:
        cut = Cut(kind, compose(pose, inner), shape)
    solids = [Solid(kind, pose, material(), shape, cut)]
    handle = material()
    for side in range(rng.integers(0, 3)):
        ring = np.stack([(1, 0, 0), (0, 0, 1), (0, -1, 0)], axis=1).astype(np.float64) * tall * 0.5
        turn = _affine(_turn_z(math.pi * side))
        solids.append(Solid("torus", _affine(ring, (wide, 0, 0)), handle, (0.16,)).moved(turn))
        if kind == "box":
            break
    for _ in range(rng.integers(0, 5)):
        offset = np.array([*rng.uniform(-0.4, 0.4, 2) * wide, rng.uniform(0.2, 1.1) * tall])
        solids.append(_some_solid(rng, material(), rng.uniform(0.12, 0.35) * wide, offset))
    return solids


def _scaffold(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """Thin rods and a frame around a few solids."""
    solids = [Solid("frame", _pose(rng.uniform(0.5, 1, 3), (0, 0, 0)), material(), (rng.uniform(0.05, 0.16),))]
    for _ in range(rng.integers(1, 6)):
        ends = rng.uniform(-0.9, 0.9, (2, 3))
        solids.append(_rod(ends[0], ends[1], rng.uniform(0.03, 0.08), material()))
    places = rng.uniform(-0.4, 0.4, (rng.integers(1, 4), 3))
    return solids + [_some_solid(rng, material(), rng.uniform(0.2, 0.45), place) for place in places]


def _package(rng: np.random.Generator, material: Callable[[], Material]) -> list[Solid]:
    """A printed box, can, book or jar, as sold in shops."""
    palette = pick_palette(rng)
    print_kind = ("glyphs", "patches", "stripes", "rings", "gradient", "plaid")[rng.integers(6)]
    printed = random_material(rng, palette, 1.0, print_kind)
    lettered = random_material(rng, palette, rng.uniform(0.7, 1.8), "glyphs")
    printed = replace(printed, overlay=lettered.pattern) if rng.random() < 0.7 else printed
    kind = ("box", "cylinder", "round_box", "box")[rng.integers(4)]
    size = rng.uniform(0.25, 1.0, 3)
    if kind == "cylinder":
        size[1] = size[0]
    solids = [Solid(kind, _pose(size, (0, 0, 0)), printed, (0.15,) if kind == "round_box" else ())]
    if rng.random() < 0.5:
        lid = rng.uniform(0.05, 0.2)
        cap = "cylinder" if kind == "cylinder" else "box"
        solids.append(Solid(cap, _pose((size[0] * 1.03, size[1] * 1.03, lid), (0, 0, size[2])), material()))
    if rng.random() < 0.3:
        solids.append(_some_solid(rng, material(), 0.3, np.array([0, 0, size[2] + 0.25])))
    return solids


_PLANS = (
    (_cluster, 5),
    (_single, 2),
    (_stack, 3),
    (_symmetric, 3),
    (_furniture, 2),
    (_creature, 3),
    (_vessel, 2),
    (_scaffold, 1.5),
    (_package, 2.5),
)
