"""Procedural scenes: rooms and open ground with clutter, and walks of cameras through them.

A scene has a track, a closed curve around its middle that is kept free of solids; a walk follows a piece of it. Lengths are
roughly metres, z is up, the floor is at z = 0. Letters: v views, n points of a track.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.synthetic.cameras import intrinsics, look_at, smooth_curve
from data.synthetic.materials import pick_palette, random_material
from data.synthetic.objects import bounding_box, fit, object_solids, random_light
from data.synthetic.primitives import CONVEX
from data.synthetic.tables import Cut, Description, Numbers, Sky, Solid

MOST_SOLIDS = 64
CLEARANCE = 0.3
EYE_HEIGHT = (0.9, 1.8)

# Palettes of `materials` for open ground.
_GROUNDS = ("leaf", "earth", "stone", "wood", "paper", "brick", "cloth")


@dataclass(frozen=True, eq=False)
class Track:
    """A closed curve around the origin: radius(angle) = size · (1 + wave · sin(turns · angle + phase)), stretched along y.

    Args:
        size: along x.
        stretch: size along y over size along x.
        wave, turns, phase: of its bends.
        highest: greatest height of a camera.
    """

    size: float
    stretch: float
    wave: float
    turns: int
    phase: float
    highest: float

    def points(self, angle: np.ndarray) -> np.ndarray:
        """Return points (n, 2) at angles (n,)."""
        radius = self.size * (1 + self.wave * np.sin(self.turns * angle + self.phase))
        return np.stack([radius * np.cos(angle), radius * np.sin(angle) * self.stretch], axis=1)

    def distance(self, place: np.ndarray) -> float:
        """Return how far a place (2,) is from the curve, to a few centimetres."""
        return float(np.linalg.norm(self.points(np.linspace(0, 2 * math.pi, 90)) - place, axis=1).min())

    def walk(self, rng: np.random.Generator, num_views: int, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Draw cameras on a piece of the track.

        Args:
            rng: the only source of randomness.
            num_views: v.
            image_size: (h, w).

        Returns:
            c2w (v, 4, 4) and fxfycxcy (v, 4), float64. The cameras look inwards, ahead or between the two, and sway.
        """
        span = math.radians(rng.uniform(60, 300)) * rng.choice((-1, 1))
        angle = rng.uniform(0, 2 * math.pi) + span * np.linspace(0, 1, num_views)
        sway = smooth_curve(rng, num_views, (0.12, 0.12, 0.25, 0.5, 0.5, 0.3))
        height = np.clip(rng.uniform(*EYE_HEIGHT) + sway[:, 2], 0.5, self.highest)
        position = np.concatenate([self.points(angle) + sway[:, :2], height[:, None]], axis=1)
        ahead = self.points(angle + 0.05 * np.sign(span)) - self.points(angle)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        inward = -position[:, :2] / np.linalg.norm(position[:, :2], axis=1, keepdims=True)
        share = rng.choice((0.3, 0.7, 0.9, 1.0))
        forward = share * inward + (1 - share) * ahead
        forward /= np.linalg.norm(forward, axis=1, keepdims=True)
        turn = sway[:, 3]
        cos, sin = np.cos(turn), np.sin(turn)
        forward = np.stack([cos * forward[:, 0] - sin * forward[:, 1], sin * forward[:, 0] + cos * forward[:, 1]], axis=1)
        drop = (0.7 - height) / self.size * rng.uniform(0.3, 1.0) + 0.3 * sway[:, 5]
        c2w = look_at(position, position + np.concatenate([forward, drop[:, None]], axis=1))
        c2w[:, :3, :3] = c2w[:, :3, :3] @ _rolls(0.08 * sway[:, 4])
        return c2w, intrinsics(math.tan(math.radians(rng.uniform(40, 62)) / 2), num_views, image_size)


def random_scene(seed: int, index: int) -> tuple[Description, Track]:
    """Draw a scene and the track through it, the same for the same (seed, index) on every machine.

    Returns:
        up to `MOST_SOLIDS` solids with light and sky; the track.
    """
    rng = np.random.default_rng([seed, index])
    return _room(rng) if rng.random() < 0.55 else _open_ground(rng)


def _rolls(angle: np.ndarray) -> np.ndarray:
    """Return rotations (v, 3, 3) about the optical axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    return np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)


def _slab(half: Numbers, centre: Numbers, turn: float = 0.0) -> np.ndarray:
    c, s = math.cos(turn), math.sin(turn)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return np.concatenate([rotation * np.array(half), np.array(centre, dtype=np.float64)[:, None]], axis=1)


def _room(rng: np.random.Generator) -> tuple[Description, Track]:
    wide, deep, tall = rng.uniform(2.2, 4.5), rng.uniform(2.2, 4.5), rng.uniform(2.4, 3.6)
    size = rng.uniform(0.5, 0.68) * wide
    stretch = rng.uniform(0.5, 0.68) * deep / size
    track = Track(size, stretch, rng.uniform(0, 0.06), int(rng.integers(2, 4)), rng.uniform(0, 6), highest=tall - 0.4)
    solids = _walls(rng, wide, deep, tall)
    _add_clutter(rng, solids, track, (wide - 0.1, deep - 0.1), (0.2, 0.75), int(rng.integers(12, 26)))
    light = random_light(rng, rng.uniform(5, 9), (0, 0, 1))
    return Description(solids, light, _sky(rng)), track


def _walls(rng: np.random.Generator, wide: float, deep: float, tall: float) -> list[Solid]:
    """Return a floor, a ceiling and four walls, some with windows, some with pictures."""
    ground, wall, ceiling = (pick_palette(rng) for _ in range(3))
    kinds = ("plain", "stripes", "clouds", "bricks", "wood", "gradient", "plaid")
    paper = random_material(rng, wall, 2.0, kinds[rng.integers(len(kinds))], calm=True)
    other = paper if rng.random() < 0.5 else random_material(rng, wall, 2.0, calm=True)
    kinds = ("wood", "tiles", "clouds", "plaid", "blocks", "bricks")
    floor = random_material(rng, ground, rng.uniform(1.5, 4.0), kinds[rng.integers(6)], calm=rng.random() < 0.6)
    roof = random_material(rng, ceiling, 3.0, ("plain", "wood", "tiles")[rng.integers(3)], calm=True)
    solids = [
        Solid("box", _slab((wide + 0.1, deep + 0.1, 0.1), (0, 0, -0.1)), floor),
        Solid("box", _slab((wide + 0.1, deep + 0.1, 0.1), (0, 0, tall + 0.1)), roof, casts=False),
    ]
    for i, (x, y) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        length = deep if x else wide
        half = (0.1, deep, tall / 2) if x else (wide, 0.1, tall / 2)
        centre = np.array((x * (wide + 0.1), y * (deep + 0.1), tall / 2))
        along = np.array((abs(y), abs(x), 0.0))
        cut = None
        if rng.random() < 0.4:
            hole = along * rng.uniform(0.2, 0.45) * length + (0.3 * abs(x), 0.3 * abs(y), rng.uniform(0.4, 0.8))
            place = centre + along * rng.uniform(-0.4, 0.4) * length + (0, 0, rng.uniform(-0.1, 0.3))
            cut = Cut("box", _slab(hole, place))
        solids.append(Solid("box", _slab(half, centre), paper if i < 2 else other, cut=cut, casts=False))
        for _ in range(rng.integers(0, 3) if cut is None else 0):
            picture = random_material(rng, pick_palette(rng))
            place = centre - (0.1 * x, 0.1 * y, 0) + along * rng.uniform(-0.7, 0.7) * length + (0, 0, rng.uniform(0, 0.3))
            frame = along * rng.uniform(0.15, 0.5) + (0.03 * abs(x), 0.03 * abs(y), rng.uniform(0.15, 0.45))
            solids.append(Solid("box", _slab(frame, place), picture))
    return solids


def _open_ground(rng: np.random.Generator) -> tuple[Description, Track]:
    reach = rng.uniform(5, 10)
    size, stretch = rng.uniform(0.45, 0.6) * reach, rng.uniform(0.75, 1.25)
    track = Track(size, stretch, rng.uniform(0, 0.06), int(rng.integers(2, 4)), rng.uniform(0, 6), highest=2.6)
    kinds = ("clouds", "clouds", "tiles", "bricks", "spots", "marble")
    kind, calm = kinds[rng.integers(len(kinds))], rng.random() < 0.6
    ground = random_material(rng, pick_palette(rng, _GROUNDS), rng.uniform(2.0, 6.0), kind, calm)
    solids = [Solid("box", _slab((60, 60, 1), (0, 0, -1)), ground)]
    hill = random_material(rng, pick_palette(rng, _GROUNDS), 25.0, "clouds", calm=True)
    for angle in rng.uniform(0, 2 * math.pi, rng.integers(3, 9)):
        place = rng.uniform(28, 45) * np.array((math.cos(angle), math.sin(angle), 0))
        half = (rng.uniform(8, 18), rng.uniform(8, 18), rng.uniform(2, 9))
        solids.append(Solid("ellipsoid", _slab(half, place, rng.uniform(0, 3)), hill, casts=False))
    for _ in range(rng.integers(2, 8)):
        angle, away = rng.uniform(0, 2 * math.pi), rng.uniform(1.0, 2.0) * reach
        plant = (_house, _tree, _tree)[rng.integers(3)](rng)
        _place(plant, solids, track, away * np.array((math.cos(angle), math.sin(angle))))
    _add_clutter(rng, solids, track, (reach, reach), (0.3, 1.1), int(rng.integers(10, 22)))
    light = random_light(rng, 40.0, (0, 0, 1))
    return Description(solids, light, _sky(rng)), track


def _house(rng: np.random.Generator) -> list[Solid]:
    wide, deep, tall = rng.uniform(1.0, 2.2), rng.uniform(1.0, 2.2), rng.uniform(0.9, 2.2)
    wall = random_material(rng, pick_palette(rng, ("brick", "stone", "wood", "paper", "pastel")), 2.0)
    kind = ("bricks", "stripes", "tiles")[rng.integers(3)]
    roof = random_material(rng, pick_palette(rng, ("brick", "stone", "wood", "night")), 2.0, kind)
    turn = rng.uniform(0, math.pi)
    gable = _slab((wide * 1.1, deep * 0.75, deep * 0.75), (0, 0, 2 * tall), turn)
    half = math.sqrt(0.5)
    tilt = np.array([[1, 0, 0], [0, half, -half], [0, half, half]])
    gable[:, :3] = gable[:, :3] @ tilt
    door = random_material(rng, pick_palette(rng), 1.0)
    return [
        Solid("box", _slab((wide, deep, tall), (0, 0, tall), turn), wall),
        Solid("box", gable, roof, cut=Cut("box", _slab((9, 9, 9), (0, 0, 2 * tall + 9)), (), True)),
        Solid("box", _slab((wide * 1.02, deep * 0.25, tall * 0.6), (0, 0, tall * 0.6), turn), door),
    ]


def _tree(rng: np.random.Generator) -> list[Solid]:
    tall, thick, crown = rng.uniform(0.8, 2.0), rng.uniform(0.08, 0.22), rng.uniform(0.6, 1.4)
    bark = random_material(rng, pick_palette(rng, ("wood", "earth")), 1.0, "wood")
    leaves = random_material(rng, pick_palette(rng, ("leaf", "leaf", "fruit", "flower")), 1.5, "clouds")
    solids = [Solid("cylinder", _slab((thick, thick, tall / 2 + 0.2), (0, 0, tall / 2)), bark)]
    if rng.random() < 0.35:
        layers = rng.integers(1, 4)
        for i in range(layers):
            half = crown * (1 - 0.2 * i)
            height = tall + half * 0.6 + 0.7 * crown * i
            solids.append(Solid("cone", _slab((half * 0.7, half * 0.7, half * 0.8), (0, 0, height)), leaves, (0.02,)))
        return solids
    for _ in range(rng.integers(1, 4)):
        shape = (rng.uniform(0.08, 0.2), *rng.uniform(4, 9, 3), *rng.uniform(0, 6, 3))
        place = (*rng.normal(0, 0.3 * crown, 2), tall + crown * rng.uniform(0.3, 0.8))
        solids.append(Solid("blob", _slab(crown * rng.uniform(0.6, 1.0, 3), place), leaves, shape))
    return solids


def _add_clutter(
    rng: np.random.Generator, solids: list[Solid], track: Track, area: tuple[float, float], sizes: tuple[float, float], number: int
) -> None:
    """Place procedural objects on the floor, off the track, about half of them inside it."""
    for i in range(number):
        half = rng.uniform(*sizes) * (1.3 if i == 0 else 1.0)
        thing = fit(_fewer(rng), half)
        angle = rng.uniform(0, 2 * math.pi)
        inside = track.points(np.array([angle]))[0] * rng.uniform(0, 0.6)
        place = inside if i % 2 == 0 else rng.uniform(-1, 1, 2) * area
        low, high = bounding_box(thing)
        place = np.clip(place, -np.array(area) - low[:2], np.array(area) - high[:2])
        _place(thing, solids, track, place)


def _fewer(rng: np.random.Generator) -> list[Solid]:
    """Draw an object of few solids, mostly convex ones, since the others take most of the time."""
    for _ in range(6):
        solids = object_solids(rng)
        if len(solids) <= 7 and sum(solid.kind not in CONVEX for solid in solids) <= 2:
            return solids
    return solids[:7]


def _place(thing: list[Solid], solids: list[Solid], track: Track, place: np.ndarray) -> None:
    """Add a thing on the floor at a place (2,), unless it is too near the track or would exceed `MOST_SOLIDS`."""
    low, high = bounding_box(thing)
    radius = np.linalg.norm(np.maximum(-low, high)[:2])
    if track.distance(place) < radius + CLEARANCE or len(solids) + len(thing) > MOST_SOLIDS:
        return
    offset = np.array((*place, -low[2]))
    world = np.concatenate([np.eye(3), offset[:, None]], axis=1)
    solids += [solid.moved(world) for solid in thing]


def _sky(rng: np.random.Generator) -> Sky:
    zenith = np.array((0.10, 0.25, 0.60)) * np.exp(rng.normal(0, 0.25, 3))
    horizon = np.array((0.65, 0.75, 0.85)) * np.exp(rng.normal(0, 0.12, 3))
    return Sky(False, horizon.clip(0, 1), zenith.clip(0, 1), rng.uniform(0, 0.9) * (rng.random() < 0.7))
