"""Solids in their local space: intervals and hits of rays, signed distances, normals.

Every solid is in the cube [-1, 1]³ of its local space; size, stretch and place in the world are an affine map applied
elsewhere. Rays come with a unit direction and a base point, the point nearest to the local origin, so that a distant
camera costs no float32 precision; distances along the ray are measured from the base point.

Letters: k rays or points. Vectors are (3, k), or three tensors of any one shape; `shape` holds the numbers of a kind, one per row,
broadcastable to these:

    ellipsoid, box, cylinder (axis z)       none
    cone (radius 1 at z = -1)               radius at z = 1, in 0..1
    capsule (axis z)                        its radius, below 1
    torus (around z)                        radius of its tube, below 0.5
    frame (the edges of a box)              thickness of an edge
    round_box                               radius of its edges
    blob (ball with waves)                  height of the waves, three frequencies, three phases
    metaballs (three balls, blended)        three times centre and radius
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Vectors = Tensor | Sequence[Tensor]
Shape = Tensor | Sequence[Tensor]

KINDS = ("ellipsoid", "box", "cylinder", "cone", "capsule", "torus", "frame", "round_box", "blob", "metaballs")
SHAPE_NUMBERS: dict[str, int] = dict(zip(KINDS, (0, 0, 0, 1, 1, 1, 1, 1, 7, 12), strict=True))
CONVEX = ("ellipsoid", "box", "cylinder", "cone", "capsule")
WITH_DISTANCE = ("ellipsoid", "torus", "frame", "round_box", "blob", "metaballs")

BLEND = 0.25
HIT_DISTANCE = 2e-4
MARCH_STEPS = 64
STEPS_BETWEEN_SORTINGS = 8

_TINY = 1e-9


def dot(a: Vectors, b: Vectors) -> Tensor:
    """Return the scalar product of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def interval(kind: str, base: Vectors, direction: Vectors, shape: Shape = ()) -> tuple[Tensor, Tensor]:
    """Return where lines run inside a convex solid.

    Args:
        kind: one of `CONVEX`.
        base: the point of the line nearest to the local origin.
        direction: unit length.
        shape: the numbers of this kind.

    Returns:
        enter, leave (k,): distances from the base point; leave < enter where the line misses.
    """
    return _INTERVALS[kind](base, direction, shape)


def signed_distance(kind: str, point: Tensor, shape: Shape = ()) -> Tensor:
    """Return a lower bound (k,) of the distance to the surface, negative inside; exact for all but blob and metaballs."""
    return _DISTANCES[kind](point, shape)


def first_hit(kind: str, base: Tensor, direction: Tensor, shape: Tensor, nearest: Tensor) -> Tensor:
    """Return where rays first enter a non-convex solid.

    Args:
        kind: one that is not in `CONVEX`.
        base, direction: (3, k) as for `interval`.
        shape: (numbers, k).
        nearest: (k,) distance from the base point at which the ray starts, outside the solid.

    Returns:
        (k,) distance from the base point, infinite where the ray misses.
    """
    if kind == "frame":
        return _frame_hit(base, direction, shape, nearest)
    return march(kind, base, direction, shape, nearest)


def march(kind: str, base: Tensor, direction: Tensor, shape: Tensor, nearest: Tensor) -> Tensor:
    """Walk along rays until they meet a solid of `WITH_DISTANCE`; arguments and result as for `first_hit`.

    Source: Hart, "Sphere tracing", 1996.
    Cost: `MARCH_STEPS` distances for grazing rays; rays that have hit or passed are dropped every few steps.
    """
    reach = (3 - dot(base, base)).clamp_min(0).sqrt()
    at = torch.maximum(-reach, nearest)
    found = torch.full_like(at, torch.inf)
    active = torch.arange(at.numel(), device=at.device)
    for _ in range(MARCH_STEPS // STEPS_BETWEEN_SORTINGS):
        for _ in range(STEPS_BETWEEN_SORTINGS):
            distance = signed_distance(kind, torch.addcmul(base, direction, at), shape)
            at = at + distance
        hit = torch.lt(distance, HIT_DISTANCE)
        found[active] = torch.where(hit, at, torch.inf)
        going = ((at < reach) & ~hit).nonzero().squeeze(1)
        if going.numel() == 0:
            break
        active, at, reach = active[going], at[going], reach[going]
        base, direction, shape = (x.index_select(1, going) for x in (base, direction, shape))
    return found


def normal(kind: str, point: Tensor, shape: Shape = ()) -> Tensor:
    """Return the outward normal at points on the surface: local, (3, k), not of unit length."""
    return _NORMALS[kind](point, shape) if kind in _NORMALS else _distance_gradient(kind, point, shape)


def bounding_axes(kind: str, shape: Sequence[float] = ()) -> tuple[float, float, float]:
    """Return the half axes of an ellipsoid around the local origin that contains the solid."""
    if kind in ("ellipsoid", "blob", "metaballs"):
        return 1.0, 1.0, 1.0
    if kind in ("cylinder", "cone"):
        return 1.5**0.5, 1.5**0.5, 3**0.5
    if kind == "capsule":
        return 2**0.5 * shape[0], 2**0.5 * shape[0], 2**0.5
    if kind == "torus":
        return 1.5**0.5, 1.5**0.5, 3**0.5 * shape[0]
    return 3**0.5, 3**0.5, 3**0.5


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Solve a t² + 2 half_b t + c = 0 for a > 0; with no real root, the first of the two numbers is the larger."""
    discriminant = half_b * half_b - a * c
    root = discriminant.clamp_min(0).sqrt()
    middle, half = -half_b / a, root / a
    half = torch.where(discriminant < 0, -1, half)
    return middle - half, middle + half


def _ellipsoid_interval(base: Vectors, direction: Vectors, shape: Shape) -> tuple[Tensor, Tensor]:
    square = 1 - dot(base, base)
    half = torch.where(square < 0, -1, square.clamp_min(0).sqrt())
    return -half, half


def _slab(position: Tensor, speed: Tensor, half: float | Tensor = 1) -> tuple[Tensor, Tensor]:
    speed = torch.where(speed.abs() < _TINY, _TINY, speed)
    middle, width = -position / speed, (half / speed).abs()
    return middle - width, middle + width


def _box_interval(base: Vectors, direction: Vectors, shape: Shape) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(base[0], direction[0])
    for b, d in zip(base[1:], direction[1:], strict=True):
        low, high = _slab(b, d)
        enter, leave = torch.maximum(enter, low), torch.minimum(leave, high)
    return enter, leave


def _tube_interval(base: Vectors, direction: Vectors, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    (x, y, _), (dx, dy, _) = base, direction
    return _roots((dx * dx + dy * dy).clamp_min(_TINY), x * dx + y * dy, x * x + y * y - radius**2)


def _cylinder_interval(base: Vectors, direction: Vectors, shape: Shape) -> tuple[Tensor, Tensor]:
    enter, leave = _tube_interval(base, direction, 1)
    low, high = _slab(base[2], direction[2])
    return torch.maximum(enter, low), torch.minimum(leave, high)


def _cone_interval(base: Vectors, direction: Vectors, shape: Shape) -> tuple[Tensor, Tensor]:
    (x, y, z), (dx, dy, dz) = base, direction
    slope = (shape[0] - 1) / 2
    radius, widening = slope * z + (1 + slope), slope * dz
    a = dx * dx + dy * dy - widening * widening
    half_b = x * dx + y * dy - radius * widening
    c = x * x + y * y - radius * radius
    enter, leave = _roots(torch.where(a > _TINY, a, 1), half_b, c)
    # A line steeper than the cone's side is inside both nappes; the solid is the one where the radius is positive.
    a = torch.where(a < -_TINY, a, -_TINY)
    root = (half_b * half_b - a * c).clamp_min(0).sqrt()
    first, last = (-half_b + root) / a, (-half_b - root) / a
    steep = dx * dx + dy * dy - widening * widening <= _TINY
    grows = widening > 0
    enter = torch.where(steep, torch.where(grows, last, -torch.inf), enter)
    leave = torch.where(steep, torch.where(grows, torch.inf, first), leave)
    low, high = _slab(z, dz)
    return torch.maximum(enter, low), torch.minimum(leave, high)


def _capsule_interval(base: Vectors, direction: Vectors, shape: Shape) -> tuple[Tensor, Tensor]:
    radius = shape[0]
    tube_enter, tube_leave = _tube_interval(base, direction, radius)
    low, high = _slab(base[2], direction[2], 1 - radius)
    enter, leave = torch.maximum(tube_enter, low), torch.minimum(tube_leave, high)
    missed = leave < enter
    enter, leave = torch.where(missed, torch.inf, enter), torch.where(missed, -torch.inf, leave)
    for side in (-1, 1):
        z = base[2] - side * (1 - radius)
        half_b = base[0] * direction[0] + base[1] * direction[1] + z * direction[2]
        square = half_b * half_b - (base[0] * base[0] + base[1] * base[1] + z * z - radius**2)
        half = square.clamp_min(0).sqrt()
        missed = square < 0
        enter = torch.minimum(enter, torch.where(missed, torch.inf, -half_b - half))
        leave = torch.maximum(leave, torch.where(missed, -torch.inf, -half_b + half))
    return enter, leave


def _frame_hit(base: Vectors, direction: Vectors, shape: Shape, nearest: Tensor) -> Tensor:
    """Enter the box, then leave each of the three square tunnels cut out of it: tunnels meet only in the middle of the box."""
    low, high = zip(*(_slab(b, d, 1 - shape[0]) for b, d in zip(base, direction, strict=True)), strict=True)
    enter, leave = _box_interval(base, direction, shape)
    enter = torch.where(enter > nearest, enter, torch.where(leave > nearest, nearest, torch.inf))
    for _ in range(2):
        for i, j in ((0, 1), (1, 2), (2, 0)):
            tunnel_enter, tunnel_leave = torch.maximum(low[i], low[j]), torch.minimum(high[i], high[j])
            enter = torch.where((enter >= tunnel_enter) & (enter < tunnel_leave), tunnel_leave, enter)
    return torch.where(enter < leave, enter, torch.inf)


def _length(vectors: Tensor) -> Tensor:
    return (vectors * vectors).sum(0).sqrt()


def _box_distance(point: Tensor, half: float | Tensor) -> Tensor:
    beyond = point.abs() - half
    return _length(beyond.clamp_min(0)) + beyond.amax(0).clamp_max(0)


def _torus_distance(point: Tensor, shape: Shape) -> Tensor:
    return torch.hypot(_length(point[:2]) - (1 - shape[0]), point[2]) - shape[0]


def _frame_distance(point: Tensor, shape: Shape) -> Tensor:
    """Return the distance to the nearest bar; by symmetry only three need testing."""
    half = shape[0] / 2
    outer, inner = point.abs() - 1, (point.abs() - (1 - half)).abs() - half
    bars = []
    for i in range(3):
        beyond = torch.stack([outer[j] if j == i else inner[j] for j in range(3)])
        bars.append(_length(beyond.clamp_min(0)) + beyond.amax(0).clamp_max(0))
    return torch.minimum(torch.minimum(bars[0], bars[1]), bars[2])


def _round_box_distance(point: Tensor, shape: Shape) -> Tensor:
    return _box_distance(point, 1 - shape[0]) - shape[0]


def _blob_distance(point: Tensor, shape: Tensor) -> Tensor:
    height, frequency, phase = shape[0], shape[1:4], shape[4:7]
    wave = torch.sin(torch.addcmul(phase, point, frequency))
    level = _length(point) - 1 + height * (1 + wave[0] * wave[1] * wave[2])
    return level / (1 + height * frequency.amax(0))


def _metaballs_distance(point: Tensor, shape: Tensor) -> Tensor:
    distance = _length(point - shape[:3]) - shape[3]
    for i in (4, 8):
        ball = _length(point - shape[i : i + 3]) - shape[i + 3]
        share = ((ball - distance) * (0.5 / BLEND) + 0.5).clamp(0, 1)
        distance = torch.lerp(ball, distance, share) - BLEND * share * (1 - share)
    return distance


def _ellipsoid_distance(point: Tensor, shape: Shape) -> Tensor:
    return _length(point) - 1


def _box_normal(point: Tensor, shape: Shape) -> Tensor:
    return torch.where(point.abs() >= point.abs().amax(0), point, 0)


def _cone_normal(point: Tensor, shape: Shape) -> Tensor:
    x, y, z = point
    slope = (shape[0] - 1) / 2
    across = _length(point[:2])
    side = (across - (1 + slope * (1 + z))).abs() < 1 - z.abs()
    return torch.stack([torch.where(side, x, 0), torch.where(side, y, 0), torch.where(side, -slope * across.clamp_min(_TINY), z)])


def _cylinder_normal(point: Tensor, shape: Shape) -> Tensor:
    x, y, z = point
    side = x * x + y * y > z * z
    return torch.stack([torch.where(side, x, 0), torch.where(side, y, 0), torch.where(side, 0, z)])


def _capsule_normal(point: Tensor, shape: Shape) -> Tensor:
    half = 1 - shape[0]
    z = point[2] - torch.minimum(torch.maximum(point[2], -half), half)
    return torch.cat([point[:2], z[None]])


def _distance_gradient(kind: str, point: Tensor, shape: Shape) -> Tensor:
    step = 1e-3
    total = torch.zeros_like(point)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        corner = point.new_tensor(corner)[:, None]
        total += corner * signed_distance(kind, point + step * corner, shape)
    return total


_INTERVALS = {
    "ellipsoid": _ellipsoid_interval,
    "box": _box_interval,
    "cylinder": _cylinder_interval,
    "cone": _cone_interval,
    "capsule": _capsule_interval,
}
_DISTANCES = {
    "ellipsoid": _ellipsoid_distance,
    "torus": _torus_distance,
    "frame": _frame_distance,
    "round_box": _round_box_distance,
    "blob": _blob_distance,
    "metaballs": _metaballs_distance,
}
_NORMALS = {
    "ellipsoid": lambda point, shape: point,
    "box": _box_normal,
    "cylinder": _cylinder_normal,
    "cone": _cone_normal,
    "capsule": _capsule_normal,
}
