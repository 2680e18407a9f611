"""Descriptions of scenes in numpy, solid by solid, and their packing into the padded tensors of a batch.

Letters: b scenes, p solids per scene (padded), l lamps. Poses map local to world, (3, 4). Colours are linear RGB.
Lengths and texture frequencies are in world units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from data.synthetic.primitives import KINDS, bounding_axes
from data.synthetic.textures import PATTERNS
from data.synthetic.trace import Solids

LAMPS = 3

# A few numbers, such as the coordinates of a point.
Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern of `data.synthetic.textures` laid over a solid.

    Args:
        kind: one of `PATTERNS`.
        numbers: its six numbers.
        rotation: (3, 3) texture axes from the axes of the solid.
        frequency: (3,) periods per world unit along the texture axes.
        offset: (3,) in periods.
        wraps: u runs around the local z axis, as on a can.
    """

    kind: str
    numbers: Sequence[float]
    rotation: np.ndarray
    frequency: np.ndarray
    offset: np.ndarray
    wraps: bool = False


@dataclass(frozen=True, eq=False)
class Material:
    """Appearance of a surface.

    Args:
        colours: (4, 3) three for the pattern, one for the overlay.
        pattern: the base pattern.
        overlay: a second pattern whose first weight blends in colour 3, or None.
        grain, grain_frequency: strength of fine noise on the colour, and its scale.
        bump, bump_frequency: strength of waves in the normal, and their scale.
        specular, shininess: Blinn-Phong; specular 0 is matt.
    """

    colours: np.ndarray
    pattern: Pattern
    overlay: Pattern | None = None
    grain: float = 0.0
    grain_frequency: float = 8.0
    bump: float = 0.0
    bump_frequency: float = 8.0
    specular: float = 0.0
    shininess: float = 20.0


@dataclass(frozen=True, eq=False)
class Cut:
    """A convex solid subtracted from another, or intersected with it (`keeps`)."""

    kind: str
    pose: np.ndarray
    shape: Sequence[float] = ()
    keeps: bool = False


@dataclass(frozen=True, eq=False)
class Solid:
    """A primitive of `data.synthetic.primitives` in the world. Only convex ones can have a cut."""

    kind: str
    pose: np.ndarray
    material: Material
    shape: Sequence[float] = ()
    cut: Cut | None = None
    casts: bool = True

    def moved(self, world: np.ndarray) -> "Solid":
        """Return the solid, with its cut and texture, after a further affine map (3, 4) of the world."""
        cut = None if self.cut is None else replace(self.cut, pose=compose(world, self.cut.pose))
        return replace(self, pose=compose(world, self.pose), cut=cut)


@dataclass(frozen=True, eq=False)
class Light:
    """The light of a scene.

    Args:
        centre: (3,) what the lamps point at.
        position: (l, 3) of the lamps; the first one casts shadows.
        colour: (l, 3), zero for a lamp that is off.
        radius: of the first lamp: its shadows are soft.
        above, below: (3,) ambient light from the two hemispheres.
        occlusion: share 0..1 of the ambient light that other solids can block.
        turn: angle that rotates the sample points of lamp and sky.
    """

    centre: np.ndarray
    position: np.ndarray
    colour: np.ndarray
    radius: float
    above: np.ndarray
    below: np.ndarray
    occlusion: float
    turn: float


@dataclass(frozen=True, eq=False)
class Sky:
    """Background of rays that hit nothing: white, or colours (3,) of horizon and zenith with `clouds` 0..1 over them."""

    white: bool = True
    horizon: np.ndarray = field(default_factory=lambda: np.ones(3))
    zenith: np.ndarray = field(default_factory=lambda: np.ones(3))
    clouds: float = 0.0


@dataclass(frozen=True, eq=False)
class Description:
    """A scene without its cameras."""

    solids: Sequence[Solid]
    light: Light
    sky: Sky = field(default_factory=Sky)


@dataclass(frozen=True, eq=False)
class Materials:
    """The materials of a batch, (b·p, …), in the order of `Solids`; names as in `Material` and `Pattern`."""

    kinds: tuple[str, ...]
    overlay_kinds: tuple[str, ...]
    colours: Tensor
    pattern: Tensor
    numbers: Tensor
    texture_from_world: Tensor
    turns: Tensor
    overlay: Tensor
    overlay_numbers: Tensor
    overlay_from_world: Tensor
    overlay_turns: Tensor
    solid_from_world: Tensor
    finish: Tensor


@dataclass(frozen=True, eq=False)
class Lights:
    """The lights of a batch, (b, …); names as in `Light`."""

    centre: Tensor
    position: Tensor
    colour: Tensor
    radius: Tensor
    above: Tensor
    below: Tensor
    occlusion: Tensor
    turn: Tensor


@dataclass(frozen=True, eq=False)
class Skies:
    """The skies of a batch, (b, …); names as in `Sky`. With `all_white` nothing is painted."""

    all_white: bool
    white: Tensor
    horizon: Tensor
    zenith: Tensor
    clouds: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Scenes as tensors on one device."""

    solids: Solids
    materials: Materials
    lights: Lights
    skies: Skies


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the affine map (..., 3, 4) that applies `inner`, then `outer`."""
    result = outer[..., :3] @ inner
    result[..., 3] += outer[..., 3]
    return result


def inverse(pose: np.ndarray) -> np.ndarray:
    """Return the inverse (..., 3, 4) of affine maps (..., 3, 4)."""
    linear = np.linalg.inv(pose[..., :3])
    return np.concatenate([linear, -linear @ pose[..., 3:]], axis=-1)


def pack(scenes: Sequence[Description], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Batch:
    """Turn descriptions into tensors; a scene with fewer solids than another is padded.

    Args:
        scenes: at least one, each with at least one solid.
        dtype: of all floating-point tensors; they are computed in float64 first.
        device: of all tensors.
    """
    per_scene = max(len(scene.solids) for scene in scenes)
    place = np.concatenate([i * per_scene + np.arange(len(scene.solids)) for i, scene in enumerate(scenes)])
    solids = [solid for scene in scenes for solid in scene.solids]

    def spread(rows: np.ndarray, fill: float = 0) -> Tensor:
        rows = np.asarray(rows)
        table = np.full((len(scenes) * per_scene, *rows.shape[1:]), fill, dtype=rows.dtype)
        table[place] = rows
        tensor = torch.from_numpy(table)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    pose = np.stack([solid.pose for solid in solids])
    local_from_world = inverse(pose)
    size = np.linalg.norm(pose[:, :, :3], axis=1)
    axes = np.array([bounding_axes(solid.kind, solid.shape) for solid in solids])
    bound = pose * np.concatenate([axes, np.ones((len(solids), 1))], axis=1)[:, None]
    cuts = [solid.cut or Cut("ellipsoid", np.eye(3, 4)) for solid in solids]
    cut_kinds = [KINDS.index(solid.cut.kind) if solid.cut else -1 for solid in solids]
    tables = Solids(
        kinds=_present(KINDS, [solid.kind for solid in solids]),
        cutters=_present(KINDS, [solid.cut.kind for solid in solids if solid.cut]),
        per_scene=per_scene,
        kind=spread(np.array([KINDS.index(solid.kind) for solid in solids]), -1),
        local_from_world=spread(local_from_world),
        shape=spread(_padded([solid.shape for solid in solids], 12)),
        bound=spread(bound),
        casts=spread(np.array([solid.casts for solid in solids])),
        cut_kind=spread(np.array(cut_kinds), -1),
        cut_from_world=spread(inverse(np.stack([cut.pose for cut in cuts]))),
        cut_shape=spread(_padded([cut.shape for cut in cuts], 1)),
        cut_keeps=spread(np.array([cut.keeps for cut in cuts])),
    )
    solid_from_world = size[:, :, None] * local_from_world
    materials = _pack_materials([solid.material for solid in solids], solid_from_world, size, spread)
    return Batch(
        tables,
        materials,
        Lights(*_columns([scene.light for scene in scenes], dtype, device)),
        Skies(all(scene.sky.white for scene in scenes), *_columns([scene.sky for scene in scenes], dtype, device)),
    )


def _pack_materials(materials: Sequence[Material], solid_from_world: np.ndarray, size: np.ndarray, spread: Callable) -> Materials:
    base = [material.pattern for material in materials]
    over = [material.overlay for material in materials]
    no_overlay = Pattern("plain", (), np.eye(3), np.ones(3), np.zeros(3))
    filled = [pattern or no_overlay for pattern in over]
    finish = [(m.grain, m.grain_frequency, m.bump, m.bump_frequency, m.specular, m.shininess) for m in materials]
    return Materials(
        kinds=_present(PATTERNS, [pattern.kind for pattern in base]),
        overlay_kinds=_present(PATTERNS, [pattern.kind for pattern in over if pattern]),
        colours=spread(np.stack([material.colours for material in materials]).astype(np.float64)),
        pattern=spread(np.array([PATTERNS.index(pattern.kind) for pattern in base])),
        numbers=spread(_padded([pattern.numbers for pattern in base], 6)),
        texture_from_world=spread(_texture_maps(base, solid_from_world)),
        turns=spread(_turns(base, size)),
        overlay=spread(np.array([PATTERNS.index(pattern.kind) if pattern else -1 for pattern in over])),
        overlay_numbers=spread(_padded([pattern.numbers for pattern in filled], 6)),
        overlay_from_world=spread(_texture_maps(filled, solid_from_world)),
        overlay_turns=spread(_turns(filled, size)),
        solid_from_world=spread(solid_from_world),
        finish=spread(np.array(finish, dtype=np.float64)),
    )


def _texture_maps(patterns: Sequence[Pattern], solid_from_world: np.ndarray) -> np.ndarray:
    linear = np.stack([pattern.frequency[:, None] * pattern.rotation for pattern in patterns])
    result = linear @ solid_from_world
    result[..., 3] += np.stack([pattern.offset for pattern in patterns])
    return result


def _turns(patterns: Sequence[Pattern], size: np.ndarray) -> np.ndarray:
    frequency = np.array([pattern.frequency[0] for pattern in patterns])
    around = np.maximum(np.rint(np.pi * (size[:, 0] + size[:, 1]) * frequency), 1)
    return np.where([pattern.wraps for pattern in patterns], around, 0.0)


def _present(names: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    occurring = set(used)
    return tuple(name for name in names if name in occurring)


def _padded(rows: Sequence[Sequence[float]], width: int) -> np.ndarray:
    return np.array([(*row, *(0.0,) * (width - len(row))) for row in rows], dtype=np.float64)


def _columns(records: Sequence[Light] | Sequence[Sky], dtype: torch.dtype, device: torch.device | str) -> list[Tensor]:
    columns = (np.stack([np.asarray(getattr(record, f.name)) for record in records]) for f in fields(records[0]))
    tensors = (torch.from_numpy(column) for column in columns)
    return [tensor.to(device, None if tensor.dtype == torch.bool else dtype) for tensor in tensors]
