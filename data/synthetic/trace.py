"""Ray tracing in many scenes at once: first hits, and blocked rays.

Rays come in pencils (all from one point: a camera, a lamp) and are kept in groups of neighbours (a tile of pixels). A group
is tested against a solid only if its rectangle in the pencil's image plane overlaps the rectangle around the solid, so that
few of the rays in the dense tensors miss.

Letters: b scenes, p solids per scene (padded), v pencils, g groups, m rays per group, k (group, solid) pairs or hits.
Directions are not of unit length; depth is in multiples of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data.synthetic.primitives import CONVEX, KINDS, SHAPE_NUMBERS, Vectors, dot, first_hit, interval, normal

NEAR = 1e-3
MARGIN = 1e-4


@dataclass(frozen=True, eq=False)
class Solids:
    """The solids of a batch, flat: solid j of scene i is number i * p + j.

    Args:
        kinds, cutters: names present in the batch; other kinds are skipped.
        per_scene: p.
        kind: (b·p,) number in `KINDS`, -1 for padding.
        local_from_world: (b·p, 3, 4).
        shape: (b·p, 12) the shape numbers of the kind, then zeros.
        bound: (b·p, 3, 4) the map of the unit ball onto an ellipsoid around the solid.
        casts: (b·p,) bool: blocks light.
        cut_kind: (b·p,) number of the convex solid that is cut away or intersected, -1 for none.
        cut_from_world, cut_shape: of that convex solid.
        cut_keeps: (b·p,) bool: the intersection is kept instead of the difference.
    """

    kinds: tuple[str, ...]
    cutters: tuple[str, ...]
    per_scene: int
    kind: Tensor
    local_from_world: Tensor
    shape: Tensor
    bound: Tensor
    casts: Tensor
    cut_kind: Tensor
    cut_from_world: Tensor
    cut_shape: Tensor
    cut_keeps: Tensor


@dataclass(frozen=True, eq=False)
class Rays:
    """Groups of rays.

    Args:
        scene: (v,) the scene of each pencil.
        origin: (v, 3) in the world.
        extent: (v, p, 4) `extents` of the scene's solids in the pencil's image plane.
        pencil: (g,) the pencil of each group.
        rectangle: (g, 4) lowest x and y, highest x and y of the group in that image plane.
        direction: (3, g, m) in the world.
    """

    scene: Tensor
    origin: Tensor
    extent: Tensor
    pencil: Tensor
    rectangle: Tensor
    direction: Tensor


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of rays: `ray` (k,) as g * m + place in the group, `solid` (k,), `depth` (k,), `normal` (3, k) outward."""

    ray: Tensor
    solid: Tensor
    depth: Tensor
    normal: Tensor


def extents(solids: Solids, scene: Tensor, view_from_world: Tensor) -> Tensor:
    """Bound every solid of a pencil's scene in the pencil's image plane.

    Args:
        solids: of the batch.
        scene: (v,) the scene of each pencil.
        view_from_world: (v, 3, 4) rigid; x and y of the image plane are x/z and y/z.

    Returns:
        (v, p, 4) lowest x and y, highest x and y; infinite for a solid that reaches behind the pencil's origin, empty for
        padding and for a solid entirely behind it.

    Source: the dual conic of the projected ellipsoid (Hartley and Zisserman, section 8.3).
    """
    bound = solids.bound.view(-1, solids.per_scene, 3, 4)[scene]
    rotation = view_from_world[:, None, :, :3]
    axes = (rotation[..., :, :, None] * bound[..., None, :, :3]).sum(-2)
    centre = (rotation * bound[..., None, :, 3]).sum(-1) + view_from_world[:, None, :, 3]
    dual = centre[..., :, None] * centre[..., None, :] - (axes[..., :, None, :] * axes[..., None, :, :]).sum(-1)
    depth, reach = centre[..., 2], axes[..., 2, :].square().sum(-1).sqrt()
    scale = dual[..., 2, 2].clamp_min(1e-12)
    middle = dual[..., :2, 2] / scale[..., None]
    half = (middle.square() - dual.diagonal(dim1=-2, dim2=-1)[..., :2] / scale[..., None]).clamp_min(0).sqrt() + MARGIN
    around = (depth <= reach * 1.01)[..., None]
    low, high = torch.where(around, -torch.inf, middle - half), torch.where(around, torch.inf, middle + half)
    absent = (depth < -reach) | (solids.kind.view(-1, solids.per_scene)[scene] < 0)
    return torch.cat([torch.where(absent[..., None], torch.inf, low), torch.where(absent[..., None], -torch.inf, high)], -1)


def nearest(solids: Solids, rays: Rays) -> Hits:
    """Return the first surface on every ray that hits one; of two at exactly the same depth, the later by kind, then by number."""
    groups, m = rays.direction.shape[1:]
    best = torch.full((groups, m), torch.inf, dtype=rays.origin.dtype, device=rays.origin.device)
    found = []
    for kind, group, solid, depth, on_cut in _depths(solids, rays, _pairs(solids, rays)):
        best.scatter_reduce_(0, group[:, None].expand(-1, m), depth, "amin")
        found.append((kind, group, solid, depth, on_cut))
    hits = []
    for kind, group, solid, depth, on_cut in found:
        row, column = ((depth == best[group]) & (depth < torch.inf)).nonzero(as_tuple=True)
        ray, solid, depth = group[row] * m + column, solid[row], depth[row, column]
        point = points(rays, ray, depth)
        hits.append(Hits(ray, solid, depth, _normals(solids, kind, solid, point, None if on_cut is None else on_cut[row, column])))
    if not hits:
        none = torch.zeros(0, dtype=torch.long, device=best.device)
        return Hits(none, none, best.new_zeros(0), best.new_zeros(3, 0))
    ray, solid, depth = (torch.cat([getattr(hit, name) for hit in hits]) for name in ("ray", "solid", "depth"))
    outward = torch.cat([hit.normal for hit in hits], dim=1)
    if len(ray) > int((best < torch.inf).sum()):
        # Two hits of one ray would be written to one place, on a GPU in undefined order.
        number = torch.arange(len(ray), device=ray.device)
        last = torch.zeros(groups * m, dtype=torch.long, device=ray.device).scatter_reduce_(0, ray, number, "amax")
        kept = (last[ray] == number).nonzero().squeeze(1)
        ray, solid, depth, outward = ray[kept], solid[kept], depth[kept], outward[:, kept]
    return Hits(ray, solid, depth, outward)


def blocked(solids: Solids, rays: Rays, active: Tensor) -> Tensor:
    """Return which rays are blocked by a solid that casts shadows between origin and origin + direction.

    Args:
        solids: of the batch.
        rays: from lamps, with targets at depth 1.
        active: (g, m) rays to test; `rectangle` only has to enclose these, and the result is false for all others.

    Returns:
        (g, m) bool.
    """
    result = torch.zeros_like(active)
    pairs = _pairs(solids, rays, solids.casts)
    for _, group, _, depth, _ in _depths(solids, rays, pairs):
        result.view(torch.uint8).scatter_reduce_(0, group[:, None].expand_as(depth), (depth < 1).view(torch.uint8), "amax")
    return result & active


def points(rays: Rays, ray: Tensor, depth: Tensor) -> Tensor:
    """Return the world points (3, k) at depths along rays, given by their numbers g * m + place."""
    origin = rays.origin[rays.pencil[ray // rays.direction.shape[2]]].T
    return torch.addcmul(origin, rays.direction.flatten(1).index_select(1, ray), depth)


def apply(matrix: Tensor, point: Tensor) -> Tensor:
    """Map points (3, k) by matrices (k, 3, 4)."""
    columns = matrix.permute(2, 1, 0).contiguous()
    return torch.addcmul(torch.addcmul(torch.addcmul(columns[3], columns[0], point[0]), columns[1], point[1]), columns[2], point[2])


def apply_transposed(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply vectors (3, k) by the transposed linear part of matrices (k, 3, 4): this takes normals to the world."""
    rows = matrix.permute(1, 2, 0)[:, :3].contiguous()
    return torch.addcmul(torch.addcmul(rows[0] * vector[0], rows[1], vector[1]), rows[2], vector[2])


def unit(vector: Tensor) -> Tensor:
    """Return vectors (3, ...) at length 1."""
    return vector * dot(vector, vector).clamp_min(1e-30).rsqrt()


def _pairs(solids: Solids, rays: Rays, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return group and solid (k,) of all pairs whose rectangles overlap."""
    extent, rectangle = rays.extent[rays.pencil], rays.rectangle[:, None]
    overlap = ((extent[..., :2] <= rectangle[..., 2:]) & (extent[..., 2:] >= rectangle[..., :2])).all(-1)
    if wanted is not None:
        overlap &= wanted.view(-1, solids.per_scene)[rays.scene[rays.pencil]]
    group, place = overlap.nonzero(as_tuple=True)
    return group, rays.scene[rays.pencil[group]] * solids.per_scene + place


def _depths(solids: Solids, rays: Rays, pairs: tuple[Tensor, Tensor]) -> Iterator[tuple]:
    """Yield, for each kind of solid: its name, group (k,), solid (k,), depth (k, m) or infinity, on its cut (k, m) or None."""
    groups, ids = pairs
    kind_of_pair = solids.kind[ids]
    for kind in solids.kinds:
        chosen = (kind_of_pair == KINDS.index(kind)).nonzero().squeeze(1)
        if chosen.numel() == 0:
            continue
        group, solid = groups[chosen], ids[chosen]
        line = _lines(solids.local_from_world[solid], rays, group)
        shape = solids.shape[solid, : SHAPE_NUMBERS[kind]]
        if kind in CONVEX:
            depth, on_cut = _convex_depth(solids, rays, kind, group, solid, line, shape)
        else:
            depth, on_cut = _other_depth(kind, line, shape), None
        yield kind, group, solid, depth, on_cut


@dataclass(frozen=True, eq=False)
class _Lines:
    """Rays in the space of a solid, all (k, m): world depth = middle + local distance * stretch."""

    base: Vectors
    direction: Vectors
    middle: Tensor
    stretch: Tensor


def _lines(local_from_world: Tensor, rays: Rays, group: Tensor) -> _Lines:
    origin = apply(local_from_world, rays.origin[rays.pencil[group]].T)[..., None]
    world = [rays.direction[i].index_select(0, group) for i in range(3)]
    rows = local_from_world[:, :, :3, None]
    direction = [
        torch.addcmul(torch.addcmul(rows[:, i, 0] * world[0], rows[:, i, 1], world[1]), rows[:, i, 2], world[2]) for i in range(3)
    ]
    stretch = dot(direction, direction).rsqrt()
    direction = tuple(d * stretch for d in direction)
    nearest = -dot(origin, direction)
    base = tuple(torch.addcmul(o, nearest, d) for o, d in zip(origin, direction, strict=True))
    return _Lines(base, direction, nearest * stretch, stretch)


def _convex_depth(
    solids: Solids, rays: Rays, kind: str, group: Tensor, solid: Tensor, line: _Lines, shape: Tensor
) -> tuple[Tensor, Tensor | None]:
    enter, leave = interval(kind, line.base, line.direction, shape.T[..., None])
    enter, leave = torch.addcmul(line.middle, enter, line.stretch), torch.addcmul(line.middle, leave, line.stretch)
    depth = torch.where((enter < leave) & (enter > NEAR), enter, torch.inf)
    if not solids.cutters:
        return depth, None
    on_cut = torch.zeros_like(depth, dtype=torch.bool)
    cutter_of_pair = solids.cut_kind[solid]
    for cutter in solids.cutters:
        row = (cutter_of_pair == KINDS.index(cutter)).nonzero().squeeze(1)
        if row.numel() == 0:
            continue
        cut = _lines(solids.cut_from_world[solid[row]], rays, group[row])
        cut_shape = solids.cut_shape[solid[row]].T[..., None]
        low, high = interval(cutter, cut.base, cut.direction, cut_shape)
        low, high = torch.addcmul(cut.middle, low, cut.stretch), torch.addcmul(cut.middle, high, cut.stretch)
        keeps = solids.cut_keeps[solid[row], None]
        depth[row], on_cut[row] = _combine(enter[row], leave[row], low, high, keeps)
    return depth, on_cut


def _combine(enter: Tensor, leave: Tensor, low: Tensor, high: Tensor, keeps: Tensor) -> tuple[Tensor, Tensor]:
    """Return depth and whether it is on the cutter, for [enter, leave] minus, or intersected with, [low, high]."""
    outside = torch.where((enter < leave) & (enter > NEAR) & ~((low <= enter) & (enter < high)), enter, torch.inf)
    inside = torch.where((low < high) & (high > NEAR) & (enter < high) & (high < leave), high, torch.inf)
    both = torch.maximum(enter, low)
    both = torch.where((both < torch.minimum(leave, high)) & (both > NEAR), both, torch.inf)
    return torch.where(keeps, both, torch.minimum(outside, inside)), torch.where(keeps, low > enter, inside < outside)


def _other_depth(kind: str, line: _Lines, shape: Tensor) -> Tensor:
    depth = torch.full_like(line.middle, torch.inf)
    near = (NEAR - line.middle) / line.stretch
    row, column = ((dot(line.base, line.base) < 3) & (near < 3**0.5)).nonzero(as_tuple=True)
    place = row * depth.shape[1] + column
    base, direction = (torch.stack([x.flatten()[place] for x in vectors]) for vectors in (line.base, line.direction))
    distance = first_hit(kind, base, direction, shape.T.index_select(1, row), near.flatten()[place])
    depth.view(-1)[place] = torch.addcmul(line.middle.flatten()[place], distance, line.stretch.flatten()[place])
    return depth


def _normals(solids: Solids, kind: str, solid: Tensor, point: Tensor, on_cut: Tensor | None) -> Tensor:
    """Return outward unit normals (3, k) in the world."""
    result = _world_normal(kind, solids.local_from_world[solid], solids.shape[solid], point)
    if on_cut is None:
        return result
    cutter_of_hit = torch.where(on_cut, solids.cut_kind[solid], -1)
    for cutter in solids.cutters:
        chosen = (cutter_of_hit == KINDS.index(cutter)).nonzero().squeeze(1)
        if chosen.numel() == 0:
            continue
        cut = solid[chosen]
        outward = _world_normal(cutter, solids.cut_from_world[cut], solids.cut_shape[cut], point[:, chosen])
        result[:, chosen] = torch.where(solids.cut_keeps[cut], outward, -outward)
    return result


def _world_normal(kind: str, local_from_world: Tensor, shape: Tensor, point: Tensor) -> Tensor:
    local = normal(kind, apply(local_from_world, point), shape.T[: SHAPE_NUMBERS[kind]])
    return unit(apply_transposed(local_from_world, local))
