"""Ring of cameras around what they look at: centre, direction up, distance and elevation. Letters: v cameras."""

import torch
from torch import Tensor

from config.errors import InputError
from model.layers.address import focus_of

# Mean cosine between the cameras' axes and the directions to the point that they look at; of photos around an object 0.9 or more.
LEAST_TOWARDS_CENTRE = 0.5
# Weight of the cameras' mean direction up, against their directions to the right.
TOWARDS_MEAN_UP = 1e-2


def ring_of(c2w: Tensor) -> tuple[Tensor, float, float]:
    """Return the ring of cameras that look at a common point.

    Args:
        c2w: (v, 4, 4) float64.

    Returns:
        the ring's frame (4, 4) in the cameras', its origin the point nearest to their axes, z up, the first camera above its
        x axis; the cameras' mean distance to that point; and their mean elevation in degrees.

    Raises:
        InputError: they do not look at a common point.
    """
    centre, up = focus_of(c2w[None])[0].double(), up_of(c2w[:, :3, :3])
    outward = c2w[:, :3, 3] - centre
    distance = outward.norm(dim=-1)
    if not -(torch.nn.functional.normalize(outward, dim=-1) * c2w[:, :3, 2]).sum(-1).mean() > LEAST_TOWARDS_CENTRE:
        raise InputError("cameras", "look at no common point", "photos taken around an object")
    elevation = torch.rad2deg(torch.asin((outward @ up / distance).clamp(-1, 1))).mean()
    first = outward[0] - outward[0] @ up * up
    if first.norm() < 1e-6 * distance[0]:  # right above the centre: any direction will do
        first = torch.linalg.cross(up, torch.eye(3, dtype=torch.float64)[up.abs().argmin()])
    first = first / first.norm()
    frame = torch.eye(4, dtype=torch.float64)
    frame[:3] = torch.stack([first, torch.linalg.cross(up, first), up, centre], dim=-1)
    return frame, distance.mean().item(), elevation.item()


def up_of(rotation: Tensor) -> Tensor:
    """Return the direction up (3) of cameras with rotations (v, 3, 3), float64.

    It is the direction that is most nearly perpendicular to their x axes: photos that are not rolled, taken from several sides,
    leave one. Where they leave it open, it is the cameras' own on average.
    """
    right, up = rotation[:, :, 0], torch.nn.functional.normalize(-rotation[:, :, 1].mean(0), dim=0)
    open_directions = torch.eye(3, dtype=torch.float64) - up[:, None] * up
    axis = torch.linalg.eigh((right[:, :, None] * right[:, None]).mean(0) + TOWARDS_MEAN_UP * open_directions).eigenvectors[:, 0]
    return axis if axis @ up >= 0 else -axis
