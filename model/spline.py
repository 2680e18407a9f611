"""Splines through cameras: curves over rows of numbers, sampled at a constant speed, smoothed, or put into a short order.

Letters: v keys, f points, n numbers of a row. A row is a camera: position (3), twice its unit quaternion, real part first (4), and
numbers of its lens (the rest). Twice the quaternion, since a small step of it is as long as its angle in radians.
"""

import math

import torch
from torch import Tensor

# Two keys nearer than this (relative to the scene's size, or in radians) count as one: they define no direction.
SAME_CAMERA = 1e-6
POSITION, QUATERNION, POSE, LENS = slice(0, 3), slice(3, 7), slice(0, 7), slice(7, None)


def smooth_path(
    c2w: Tensor,
    fxfycxcy: Tensor,
    num_frames: int,
    order: str = "given",
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Fly through key cameras on a smooth path at constant speed.

    Position and unit quaternion follow a centripetal Catmull-Rom spline (Hermite pieces, common tangents at the keys);
    intrinsics are linear between keys. Speed counts positions in half diagonals of the keys' bounding box and turns in
    radians. A key at the pose of the one before it counts once; a path of a single key stands still. The only corners
    left are at keys where a turn in place meets a flight without a turn: smoothing rounds them.

    Args:
        c2w: (v, 4, 4) key cameras, v >= 1.
        fxfycxcy: (v, 4) pixels.
        num_frames: f.
        order: 'given', or 'nearest' for photos in no useful order: a short tour through all of them.
        smoothing: width (standard deviation) of a Gaussian over the path, in mean distances between keys: 0 passes
            through every key, about 1 takes the shake out of hand-held photos; the two ends stay fixed.

    Returns:
        fxfycxcy: (f, 4) and c2w: (f, 4, 4) of the given dtypes, on the given devices; rotations are orthonormal.

    Raises:
        ValueError: shapes that do not fit, no key, a key that is not finite, no frame, an unknown order, or a negative
            smoothing.

    Source: Yuksel et al. 2011, "Parameterization and applications of Catmull-Rom curves"; we also limit tangents.
    """
    _check_keys(c2w, fxfycxcy)
    if num_frames < 1:
        raise ValueError(f"smooth_path, num_frames: is {num_frames}; wanted 1 or more")
    if order not in ("given", "nearest"):
        raise ValueError(f"smooth_path, order: is {order!r}; wanted given or nearest")
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smooth_path, smoothing: is {smoothing}; wanted a number of at least 0")
    keys = rows_of(c2w, fxfycxcy)
    position = keys[:, POSITION]
    size = ((position.amax(0) - position.amin(0)) / 2).norm().item()
    if size <= 8 * torch.finfo(c2w.dtype).eps * position.abs().max().item():
        size = 1.0
    keys[:, POSITION] /= size
    if order == "nearest":
        keys = keys[short_tour(distances(keys))]
    keys = drop_repeats(keys)
    if len(keys) == 1:
        frames = keys.repeat(num_frames, 1)
    else:
        path = curve(keys, samples=max(64, 4 * num_frames))
        if smoothing > 0:
            pieces = len(keys) - 1
            path = smooth(path, smoothing / pieces, samples=8 * max(num_frames, pieces))
        frames = at_constant_speed(path, num_frames)
    frames[:, POSITION] *= size
    return frames[:, LENS].to(fxfycxcy), poses_of(frames).to(c2w)


def _check_keys(c2w: Tensor, fxfycxcy: Tensor) -> None:
    if c2w.shape[1:] != (4, 4) or fxfycxcy.shape != (len(c2w), 4) or len(c2w) == 0:
        raise ValueError(
            f"smooth_path: c2w is {tuple(c2w.shape)} and fxfycxcy {tuple(fxfycxcy.shape)}; "
            "wanted (v, 4, 4) and (v, 4) with one camera or more"
        )
    finite = c2w.isfinite().all(-1).all(-1) & fxfycxcy.isfinite().all(-1)
    if not finite.all():
        view = finite.logical_not().nonzero()[0].item()
        raise ValueError(f"smooth_path, camera {view}: holds a value that is not finite; wanted finite numbers")


def rows_of(c2w: Tensor, lens: Tensor) -> Tensor:
    """Return cameras c2w (v, 4, 4), whose lenses are numbers (v, m), as rows (v, 7 + m), float64 on the CPU."""
    c2w = c2w.double().cpu()
    return torch.cat([c2w[:, :3, 3], 2 * quaternions(c2w[:, :3, :3]), lens.double().cpu()], dim=-1)


def poses_of(rows: Tensor) -> Tensor:
    """Return the poses (f, 4, 4) of rows; their rotations are orthonormal."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    poses[:, :3, :3] = rotations(rows[:, QUATERNION])
    poses[:, :3, 3] = rows[:, POSITION]
    return poses


def quaternions(rotation: Tensor) -> Tensor:
    """Return the unit quaternions (v, 4), real part first, sign arbitrary, of the rotations nearest to (v, 3, 3).

    Source: Bar-Itzhack 2000, "New method for extracting the quaternion from a rotation matrix": the eigenvector of the
    largest eigenvalue. The matrices may be off by rounding.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    entries = [
        [xx + yy + zz, zy - yz, xz - zx, yx - xy],
        [zy - yz, xx - yy - zz, xy + yx, xz + zx],
        [xz - zx, xy + yx, yy - xx - zz, yz + zy],
        [yx - xy, xz + zx, yz + zy, zz - xx - yy],
    ]
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in entries], dim=-2)
    return torch.linalg.eigh(symmetric).eigenvectors[..., -1]


def rotations(quaternion: Tensor) -> Tensor:
    """Return the rotations (f, 3, 3) of quaternions (f, 4) of any length but 0."""
    real, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - real * z), 2 * (x * z + real * y)],
        [2 * (x * y + real * z), 1 - 2 * (x * x + z * z), 2 * (y * z - real * x)],
        [2 * (x * z - real * y), 2 * (y * z + real * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def distances(keys: Tensor) -> Tensor:
    """Return the distances (v, v) between all keys, by position and by angle."""
    position, quaternion = keys[:, POSITION], keys[:, QUATERNION]
    move = (position[:, None] - position).norm(dim=-1)
    turn = [(quaternion[:, None] - sign * quaternion).norm(dim=-1) for sign in (1, -1)]
    return torch.hypot(move, torch.minimum(*turn))


def short_tour(distance: Tensor) -> Tensor:
    """Return an order (v) of keys `distance` (v, v) apart: nearest neighbour, then 2-opt until no exchange helps."""
    # An extra node at distance 0 from all others turns an open path into a tour.
    tour = [len(distance), 0]
    distance = torch.nn.functional.pad(distance, (0, 1, 0, 1))
    left = torch.ones(len(distance), dtype=torch.bool)
    left[tour] = False
    while left.any():
        tour.append(int(distance[tour[-1]].masked_fill(~left, math.inf).argmin()))
        left[tour[-1]] = False
    best = _two_opt(torch.tensor(tour), distance)
    path = best.roll(-int(best.argmax()))[1:]
    return path if path[0] <= path[-1] else path.flip(0)


def _two_opt(tour: Tensor, distance: Tensor) -> Tensor:
    """Reverse stretches of a closed tour while that shortens it: the largest gain first."""
    while True:
        after = tour.roll(-1)
        leg = distance[tour, after]
        gain = leg[:, None] + leg - distance[tour][:, tour] - distance[after][:, after]
        # Exchanging a leg with itself gains nothing, but the formula gives twice the leg.
        gain.fill_diagonal_(0)
        best = int(gain.argmax())
        if not gain.flatten()[best] > 1e-9:
            return tour
        first, last = sorted(divmod(best, len(tour)))
        tour = torch.cat([tour[: first + 1], tour[first + 1 : last + 1].flip(0), tour[last + 1 :]])


def drop_repeats(keys: Tensor) -> Tensor:
    """Drop every key at the pose of the one before it."""
    same = distances(keys) < SAME_CAMERA
    kept = [0]
    for view in range(1, len(keys)):
        if not same[view, kept[-1]]:
            kept.append(view)
    return keys[kept]


def align_signs(keys: Tensor) -> Tensor:
    """Flip quaternions (q and -q are the same rotation) into the half-space of the previous one: the short way round."""
    quaternion = keys[:, QUATERNION]
    flips = torch.where((quaternion[1:] * quaternion[:-1]).sum(-1) < 0, -1.0, 1.0).double().cumprod(0)
    keys = keys.clone()
    keys[1:, QUATERNION] *= flips[:, None]
    return keys


def curve(keys: Tensor, samples: int) -> Tensor:
    """Return the centripetal curve through keys (v, n), v >= 2, as points (pieces · samples + 1, n), both its ends included.

    The lens is linear between keys.
    """
    keys = align_signs(keys)
    around = torch.cat([2 * keys[:1] - keys[1:2], keys, 2 * keys[-1:] - keys[-2:-1]])
    pose = around[:, POSE]
    span = pose.diff(dim=0).norm(dim=-1, keepdim=True).sqrt()
    tangent = torch.cat([tangents(pose[:, part], span) for part in (POSITION, QUATERNION)], dim=-1)
    span, start, end = span[1:-1, None], around[1:-2, None], around[2:-1, None]
    u = torch.linspace(0, 1, samples + 1, dtype=torch.float64)[:-1, None]
    points = start + (end - start) * u
    points[..., POSE] = hermite(start[..., POSE], end[..., POSE], span * tangent[:-1, None], span * tangent[1:, None], u)
    return torch.cat([points.flatten(0, 1), around[-2:-1]])


def hermite(start: Tensor, end: Tensor, leaving: Tensor, arriving: Tensor, u: Tensor) -> Tensor:
    """Return the cubic from `start` to `end` at u in 0..1; `leaving` and `arriving` are its derivatives by u at its ends."""
    return start + (end - start) * (u * u * (3 - 2 * u)) + leaving * (u * (1 - u) ** 2) - arriving * (u * u * (1 - u))


def tangents(points: Tensor, span: Tensor) -> Tensor:
    """Return the derivatives (v, c) at all points (v + 2, c) but the outer two, knots `span` (v + 1, 1) apart.

    Each is limited to the geometric mean of the slopes on its two sides, which a single curve never exceeds. But position
    and quaternion share spans: a turn in place before a long flight would otherwise carry the flight backwards first.
    """
    slope = points.diff(dim=0) / span
    tangent = (span[1:] * slope[:-1] + span[:-1] * slope[1:]) / (span[1:] + span[:-1])
    speed = slope.norm(dim=-1, keepdim=True)
    most = (speed[1:] * speed[:-1]).sqrt()
    return tangent * (most / tangent.norm(dim=-1, keepdim=True).clamp_min(1e-300)).clamp_max(1)


def smooth(path: Tensor, width: float, samples: int) -> Tensor:
    """Convolve a curve with a Gaussian whose standard deviation is `width` of the curve's length."""
    path = at_constant_speed(path, samples + 1)
    radius = min(math.ceil(4 * width * samples), samples)
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64) / (width * samples)
    weight = torch.exp(-0.5 * offset.square())
    before, after = path[-radius - 1 : -1], path[1 : radius + 1]
    before, after = 2 * path[:1] - after.flip(0), 2 * path[-1:] - before.flip(0)
    padded = torch.cat([before, path, after])
    # By FFT, since a direct convolution would copy the curve once for every weight. The first 2·radius points wrap.
    spectrum = torch.fft.rfft(padded, dim=0) * torch.fft.rfft(weight / weight.sum(), len(padded))[:, None]
    return torch.fft.irfft(spectrum, len(padded), dim=0)[2 * radius :]


def at_constant_speed(path: Tensor, count: int) -> Tensor:
    """Return `count` points (count, n), equally spaced along a curve given by many points, ends included."""
    path = path.clone()
    path[:, QUATERNION] = 2 * torch.nn.functional.normalize(path[:, QUATERNION], dim=-1)
    length = torch.nn.functional.pad(path[:, POSE].diff(dim=0).norm(dim=-1).cumsum(0), (1, 0))
    at = torch.linspace(0, 1, count, dtype=torch.float64) * length[-1]
    after = torch.searchsorted(length, at, right=True).clamp(1, len(path) - 1)
    part = (at - length[after - 1]) / (length[after] - length[after - 1]).clamp_min(1e-300)
    return torch.lerp(path[after - 1], path[after], part.clamp(0, 1)[:, None])
