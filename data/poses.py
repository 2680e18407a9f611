"""Normalisation of a scene's poses to the frame and scale that scene networks are trained on.

Letters: b scenes, v views. Axes are OpenCV's: x right, y down, z forward. `c2w` is world from camera.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from config.errors import InputError

# Below this length a mean of unit vectors is rounding noise, not a direction.
_NO_DIRECTION = 1e-5


@dataclass(frozen=True)
class SceneFrame:
    """The frame and scale of scenes' reference cameras.

    Attributes:
        rotation: (b, 3, 3) float64, the frame's axes in the world, as columns.
        origin: (b, 3) float64 in the world.
        unit: (b) float64, length in the world of one unit of the frame.
    """

    rotation: Tensor
    origin: Tensor
    unit: Tensor

    def apply(self, c2w: Tensor) -> Tensor:
        """Move poses (b, v, 4, 4) of the world into the frame."""
        moved = c2w.double().clone()
        moved[..., :3, :3] = self.rotation.mT[:, None] @ moved[..., :3, :3]
        moved[..., :3, 3] = (moved[..., :3, 3] - self.origin[:, None]) @ self.rotation
        moved[..., :3, 3] /= self.unit[:, None, None]
        return moved.to(c2w.dtype)

    @property
    def matrix(self) -> Tensor:
        """(b, 4, 4) float64: the similarity that moves points of the world into the frame."""
        matrix = torch.eye(4, dtype=torch.float64).repeat(len(self.unit), 1, 1)
        matrix[:, :3, :3] = self.rotation.mT / self.unit[:, None, None]
        matrix[:, :3, 3] = -(matrix[:, :3, :3] @ self.origin[..., None])[..., 0]
        return matrix


def normalise_poses(c2w: Tensor, reference: int | None = None, scene_scale: float = 1.0) -> Tensor:
    """Move scenes into the frame of their mean camera and scale their cameras into a cube: `scene_frame`, applied.

    Returns:
        (b, v, 4, 4), dtype of `c2w`: the largest absolute coordinate of a reference camera is 1 / scene_scale.
    """
    return scene_frame(c2w, reference, scene_scale).apply(c2w)


def in_scene_frame(c2w: Tensor, reference: Tensor, scene_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Move the poses of one scene into the frame that scene networks are trained on: `scene_frame`, of other views.

    Args:
        c2w: (v, 4, 4) world from camera.
        reference: (n, 4, 4) the views that set frame and scale.
        scene_scale: as for `scene_frame`.

    Returns:
        the poses, dtype of `c2w`; and (4, 4) float64, the similarity that moves points of the world into the frame.
    """
    frame = scene_frame(reference[None], scene_scale=scene_scale)
    return frame.apply(c2w[None])[0], frame.matrix[0]


def scene_frame(c2w: Tensor, reference: int | None = None, scene_scale: float = 1.0) -> SceneFrame:
    """Return the frame of scenes' mean cameras, and the scale that puts their cameras into a cube.

    The frame's z is the mean viewing direction, its y the mean of the cameras' y made perpendicular to z, its origin
    the mean position. Where the views cancel and no such frame exists (a full ring looking inwards), the axes of the
    first reference view are used.

    Args:
        c2w: (b, v, 4, 4) world from camera, OpenCV axes.
        reference: how many of the first views set frame and scale: None for all (the published LaCT demo: inputs and
            targets), or the number of inputs (Long-LRM).
        scene_scale: half the side of the cube is 1 / scene_scale: 1.0 for LaCT, 1.35 for LVSM and Long-LRM weights.

    Raises:
        InputError: the reference cameras are all at one place (a single one always is): the scale is undefined.
        ValueError: a wrong shape, a reference below 1 or above the number of views, or a scale that is not positive.

    Source: the LaCT demo and Long-LRM (arXiv 2410.12781), which divide by zero where we raise or fall back.
    Precision: float64 inside. Syncs with the host.
    """
    if c2w.ndim != 4 or c2w.shape[-2:] != (4, 4):
        raise ValueError(f"normalise_poses: c2w is {tuple(c2w.shape)}; wanted (scenes, views, 4, 4)")
    if not scene_scale > 0:
        raise ValueError(f"normalise_poses: scene_scale is {scene_scale}; wanted a number above 0")
    reference = c2w.shape[1] if reference is None else reference
    if not 1 <= reference <= c2w.shape[1]:
        raise ValueError(f"normalise_poses: reference is {reference} of {c2w.shape[1]} views; wanted one or more of those")
    used = c2w[:, :reference].double()
    rotation, origin = _mean_camera(used)
    size = ((used[..., :3, 3] - origin[:, None]) @ rotation).abs().amax((1, 2))
    rounding = 8 * torch.finfo(c2w.dtype).eps * used[..., :3, 3].abs().amax((1, 2))
    for scene, (found, least) in enumerate(zip(size.tolist(), rounding.tolist(), strict=True)):
        if not found > least:
            raise InputError(
                "cameras" if len(c2w) == 1 else f"scene {scene}, cameras",
                f"spread over {found:.3g}, too little to set a scale",
                "reference cameras at different places (more of them, or the targets as well)",
            )
    return SceneFrame(rotation, origin, scene_scale * size)


def _mean_camera(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation (b, 3, 3) and position (b, 3) of the mean of cameras (b, v, 4, 4)."""
    _, down, forward, position = c2w[..., :3, :].mean(1).unbind(-1)
    z = torch.nn.functional.normalize(forward, dim=-1)
    right = torch.linalg.cross(down, z)
    x = torch.nn.functional.normalize(right, dim=-1)
    rotation = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
    exists = (forward.norm(dim=-1) > _NO_DIRECTION) & (right.norm(dim=-1) > _NO_DIRECTION)
    return torch.where(exists[:, None, None], rotation, c2w[:, 0, :3, :3]), position
