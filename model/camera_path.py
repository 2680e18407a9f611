"""Camera paths for videos: circles around an object, and a smooth flight past the cameras of a scene.

Letters: b scenes, v input or key cameras, f frames, h w pixels. Axes are OpenCV's: x right, y down, z forward. `c2w` is world from
camera; the world is the frame of the scene state, unless a function says otherwise.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import with_article
from model.camera_ring import ring_of
from model.checks import sides_of
from model.scene_state import SceneState
from model.spline import smooth_path

# Of the published turntable: horizontal field of view, and (mean, swing) of elevation and distance.
FOV_DEG, ELEVATION_DEG, RADIUS = 50.0, (30.0, 15.0), (2.35, 0.65)
# Width of the smoothing of a flight, in mean distances between inputs.
SMOOTHING = 0.5


@dataclass(frozen=True, eq=False)
class CameraPath:
    """The cameras of a video's frames.

    Attributes:
        fxfycxcy: (f, 4) pixels of `image_size`.
        c2w: (f, 4, 4).
        image_size: (h, w).
        fps: frames per second.
    """

    fxfycxcy: Tensor
    c2w: Tensor
    image_size: tuple[int, int]
    fps: float = 30.0

    def __post_init__(self) -> None:
        f = len(self.c2w)
        if self.c2w.shape != (f, 4, 4) or self.fxfycxcy.shape != (f, 4):
            shapes = f"c2w is {tuple(self.c2w.shape)} and fxfycxcy {tuple(self.fxfycxcy.shape)}"
            raise ValueError(f"camera path: {shapes}; wanted (f, 4, 4) and (f, 4)")
        _check_image_size(self.image_size)
        if not 0.1 <= self.fps <= 240:
            raise ValueError(f"camera path, fps: is {self.fps}; wanted 0.1 to 240")

    def __len__(self) -> int:
        return len(self.c2w)

    def part(self, frames: range) -> "CameraPath":
        """Return the path of consecutive frames."""
        own = slice(frames.start, frames.stop)
        return dataclasses.replace(self, fxfycxcy=self.fxfycxcy[own], c2w=self.c2w[own])

    def resized(self, image_size: tuple[int, int]) -> "CameraPath":
        """Return the path for frames of another size (h, w): the vertical field of view stays, pixels keep their shape."""
        _check_image_size(image_size)
        (h, w), scale = self.image_size, image_size[0] / self.image_size[0]
        moved = self.fxfycxcy.new_tensor([0, 0, (image_size[1] - w * scale) / 2, (image_size[0] - h * scale) / 2])
        return dataclasses.replace(self, fxfycxcy=self.fxfycxcy * scale + moved, image_size=image_size)

    def moved(self, similarity: Tensor) -> "CameraPath":
        """Return the path in another frame, into which `similarity` (4, 4) moves points."""
        return dataclasses.replace(self, c2w=moved_poses(self.c2w, similarity))


def moved_poses(c2w: Tensor, similarity: Tensor) -> Tensor:
    """Return poses (f, 4, 4) in another frame, into which a similarity (4, 4) moves points; rotations stay orthonormal.

    Raises:
        ValueError: it is no rotation times a positive scale, with a translation.
    """
    similarity = similarity.double().cpu()
    linear = similarity[:3, :3]
    scale = torch.linalg.det(linear).clamp_min(0) ** (1 / 3)
    error = (linear @ linear.mT - scale**2 * torch.eye(3, dtype=torch.float64)).abs().max()
    if similarity.shape != (4, 4) or not similarity.isfinite().all() or not (scale > 0 and error < 1e-3 * scale**2):
        raise ValueError("similarity: is not a rotation times a scale with a translation; wanted such a (4, 4) matrix")
    moved = c2w.double().cpu().clone()
    moved[:, :3, :3] = linear / scale @ moved[:, :3, :3]
    moved[:, :3, 3] = moved[:, :3, 3] @ linear.mT + similarity[:3, 3]
    return moved.to(c2w)


def published_turntable(
    num_frames: int,
    image_size: tuple[int, int],
    fps: float = 30.0,
    *,
    fov_deg: float = FOV_DEG,
    elevation_deg: tuple[float, float] = ELEVATION_DEG,
    radius: tuple[float, float] = RADIUS,
) -> CameraPath:
    """Circle once around the origin, z up, while height and distance swing.

    Args:
        num_frames: f. The azimuth goes from 0 to 360 degrees, end excluded.
        image_size: (h, w).
        fps: frames per second.
        fov_deg: horizontal field of view. Pixels are square, the principal point is the middle of the image.
        elevation_deg: (mean, swing) above the ground; a frame has mean + swing · sin, one period per video, end included.
        radius: (mean, swing) of the distance to the origin, in step with the elevation.

    Returns:
        the path; every camera looks at the origin and none is rolled.

    Raises:
        ValueError: no frame, an empty image, a field of view outside 0 to 180 degrees, or a radius that reaches 0.

    Source: the demo of LaCT (arXiv 2505.23884), whose numbers are the defaults.
    """
    _check_frames(num_frames)
    fxfycxcy = _lens(image_size, fov_deg)
    if not radius[0] > abs(radius[1]):
        raise ValueError(
            f"turntable, radius: is {radius[0]} and swings by {radius[1]}; wanted a swing that does not reach the origin"
        )
    swing = torch.linspace(0, 2 * math.pi, num_frames, dtype=torch.float64).sin()
    c2w = _circle(elevation_deg[0] + elevation_deg[1] * swing, radius[0] + radius[1] * swing)
    return CameraPath(fxfycxcy.repeat(num_frames, 1), c2w.float(), image_size, fps)


def turntable(
    state: SceneState,
    num_frames: int = 120,
    image_size: tuple[int, int] | None = None,
    *,
    radius: float | None = None,
    elevation_deg: float | None = None,
    fov_deg: float | None = None,
    fps: float = 30.0,
) -> CameraPath:
    """Circle once around the origin, z up, looking at it; what the inputs show of an object there stays in every frame.

    Args:
        state: of one object, whose middle is the origin.
        num_frames: f. The azimuth goes from 0 to 360 degrees, end excluded: the video loops.
        image_size: (h, w); None for that of the inputs.
        radius: distance to the origin; None for that from which the sphere that the inputs show (`shown_radius`) fits the frame, in
            height and in width.
        elevation_deg: above the ground; None for the published turntable's 30 ± 15 degrees, one period per video.
        fov_deg: horizontal field of view; None for 50. Pixels are square, the principal point is the middle of the image.
        fps: frames per second.

    Raises:
        ValueError: a state of several scenes, no frame, an empty image, an elevation beyond the poles, a field of view outside 0 to
            180 degrees, or a radius that is not above 0.
    """
    _check_state(state)
    _check_frames(num_frames)
    _check_circle(radius, elevation_deg)
    image_size = state.image_size if image_size is None else image_size
    fxfycxcy = _lens(image_size, FOV_DEG if fov_deg is None else fov_deg)
    if radius is None:
        shown = shown_radius(state)
        half_side = min(image_size) / 2
        # A sphere fits a cone of half its opening angle from sphere / sin of that angle.
        radius = shown / math.sin(math.atan(half_side / fxfycxcy[0].item())) if shown else RADIUS[0]
    swing = torch.arange(num_frames, dtype=torch.float64).mul(2 * math.pi / num_frames).sin()
    mean, amplitude = ELEVATION_DEG if elevation_deg is None else (elevation_deg, 0.0)
    c2w = _circle(mean + amplitude * swing, torch.full_like(swing, radius))
    return CameraPath(fxfycxcy.repeat(num_frames, 1), c2w.float(), image_size, fps)


def shown_radius(state: SceneState) -> float:
    """Return the radius of the largest sphere around the origin that an input shows whole: the median of the inputs that show one.

    It is 0 if none does. An input that looks at the origin shows its distance times the sine of half its smaller field of view.
    """
    (h, w), (fx, fy, cx, cy) = state.image_size, state.fxfycxcy[0].double().cpu().unbind(-1)
    c2w = state.c2w[0].double().cpu()
    x, y, z = (-c2w[:, :3, :3].mT @ c2w[:, :3, 3:])[..., 0].unbind(-1)  # the origin, as each camera sees it
    sides = [
        (x * fx + z * cx, fx, cx),
        (z * (w - cx) - x * fx, fx, w - cx),
        (y * fy + z * cy, fy, cy),
        (z * (h - cy) - y * fy, fy, h - cy),
    ]
    distance = torch.stack([along / torch.hypot(focal, offset) for along, focal, offset in sides]).amin(0)
    shown = distance[distance > 0]
    return shown.median().item() if len(shown) else 0.0


def orbit(
    state: SceneState,
    num_frames: int = 120,
    image_size: tuple[int, int] | None = None,
    *,
    radius: float | None = None,
    elevation_deg: float | None = None,
    fov_deg: float | None = None,
    fps: float = 30.0,
) -> CameraPath:
    """Circle once around what the inputs look at, wherever that is, from the azimuth of the first input.

    Centre, direction up, distance and elevation are those of the inputs: `camera_ring.ring_of`.

    Args:
        state: of one capture, in any frame.
        num_frames: f. The circle closes: the last frame is one step before the first.
        image_size: (h, w); None for that of the inputs.
        radius: distance to the centre; None for the inputs' mean.
        elevation_deg: above the plane through the centre; None for the inputs' mean.
        fov_deg: horizontal field of view; None for the inputs', cropped where the frame has another shape.
        fps: frames per second.

    Raises:
        InputError: the inputs do not look at a common point.
        ValueError: as `turntable`.
    """
    _check_state(state)
    _check_frames(num_frames)
    _check_circle(radius, elevation_deg)
    image_size = state.image_size if image_size is None else image_size
    if fov_deg is None:
        _check_image_size(image_size)
        focal = state.fxfycxcy[0, :, :2].double().mean().item() * _cover(state.image_size, image_size)
        fxfycxcy = torch.tensor([focal, focal, image_size[1] / 2, image_size[0] / 2])
    else:
        fxfycxcy = _lens(image_size, fov_deg)
    ring, distance, elevation = ring_of(state.c2w[0].double().cpu())
    constant = torch.ones(num_frames, dtype=torch.float64)
    circle = _circle(
        constant * (elevation if elevation_deg is None else elevation_deg), constant * (distance if radius is None else radius)
    )
    return CameraPath(fxfycxcy.repeat(num_frames, 1), (ring @ circle).float(), image_size, fps)


def flight(
    state: SceneState,
    num_frames: int = 120,
    image_size: tuple[int, int] | None = None,
    *,
    order: str = "given",
    smoothing: float = SMOOTHING,
    fps: float = 30.0,
) -> CameraPath:
    """Fly past the inputs on a smooth path at constant speed: `smooth_path`.

    Args:
        state: of one scene.
        num_frames: f.
        image_size: (h, w); None for that of the inputs. The inputs' intrinsics are scaled until they cover the frame, whose centre
            is cropped.
        order: 'given', or 'nearest' for photos in no useful order.
        smoothing: width of a Gaussian over the path, in mean distances between inputs; 0 passes through every input.
        fps: frames per second.

    Raises:
        ValueError: a state of several scenes, an empty image, or as `smooth_path`.
    """
    _check_state(state)
    _check_frames(num_frames)
    (h, w), image_size = state.image_size, state.image_size if image_size is None else image_size
    _check_image_size(image_size)
    scale = _cover((h, w), image_size)
    cut = torch.tensor([0, 0, (w * scale - image_size[1]) / 2, (h * scale - image_size[0]) / 2])
    lenses = state.fxfycxcy[0].cpu() * scale - cut
    return CameraPath(*smooth_path(state.c2w[0].cpu(), lenses, num_frames, order, smoothing), image_size, fps)


def _circle(elevation_deg: Tensor, radius: Tensor) -> Tensor:
    """Return the poses (f, 4, 4) of a circle around the origin, z up, from the x axis; elevations and distances are (f) float64."""
    f = len(radius)
    elevation = torch.deg2rad(elevation_deg)
    azimuth = torch.arange(f, dtype=torch.float64) * (2 * math.pi / f)
    level = torch.stack([azimuth.cos(), azimuth.sin(), torch.zeros_like(azimuth)], dim=-1)
    outward = level * elevation.cos()[:, None]
    outward[:, 2] = elevation.sin()
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(f, 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(right, outward), -outward, outward * radius[:, None]], dim=-1)
    return c2w


def _lens(image_size: tuple[int, int], fov_deg: float) -> Tensor:
    """Return fx, fy, cx, cy of a horizontal field of view: square pixels, the principal point in the middle."""
    _check_image_size(image_size)
    if not 0 < fov_deg < 180:
        raise ValueError(f"camera path, field of view: is {fov_deg} degrees; wanted more than 0 and less than 180")
    h, w = image_size
    focal = 0.5 * w / math.tan(math.radians(fov_deg) / 2)
    return torch.tensor([focal, focal, w / 2, h / 2])


def _cover(old: tuple[int, int], new: tuple[int, int]) -> float:
    """Return by how much an image (h, w) is enlarged until it covers another."""
    return max(new[0] / old[0], new[1] / old[1])


def _check_state(state: SceneState) -> None:
    if not isinstance(state, SceneState):
        raise InputError("camera path, state", f"is {with_article(type(state))}", "what reconstruct or SceneState.load returns")
    if len(state.c2w) != 1:
        raise ValueError(f"camera path, state: holds {len(state.c2w)} scenes; wanted one")


def _check_frames(num_frames: int) -> None:
    if not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"camera path, num_frames: is {num_frames}; wanted 1 or more")


def _check_image_size(image_size: tuple[int, int]) -> None:
    h, w = sides_of(image_size, "camera path, image size")
    if h < 1 or w < 1:
        raise ValueError(f"camera path, image size: is {h} {w}; wanted a height and a width of 1 or more")


def _check_circle(radius: float | None, elevation_deg: float | None) -> None:
    if radius is not None and not 0 < radius < math.inf:
        raise ValueError(f"camera path, radius: is {radius}; wanted a number above 0")
    if elevation_deg is not None and not -90 <= elevation_deg <= 90:
        raise ValueError(f"camera path, elevation: is {elevation_deg} degrees; wanted -90 to 90")
