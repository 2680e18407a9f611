"""Camera rays, one per pixel.

Letters: b scenes, v views, h w pixels. Axes are OpenCV's: x right, y down, z forward. `c2w` is world from camera.
"""

import torch
from torch import Tensor


def rays(fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cast a ray through the centre of every pixel.

    Args:
        fxfycxcy: (..., 4) focal lengths and principal point in pixels of an image of `image_size`.
        c2w: (..., 4, 4) world from camera, OpenCV axes, with the same leading dimensions.
        image_size: (h, w).

    Returns:
        origin: (..., 3, h, w) camera centre in the world, the same for all pixels: a view that shares memory, not to be
            written to.
        direction: (..., 3, h, w) unit direction in the world; row i, column j looks through x = j + 0.5, y = i + 0.5.

    Raises:
        ValueError: the shapes are not those above.

    Precision: float32 for inputs of any dtype; element-wise only, so that autocast lowers nothing.
    Cost: about 10 · 3hw operations per view: before normalisation the direction is a sum of a row and a column.
    """
    if fxfycxcy.shape[-1:] != (4,) or c2w.shape[-2:] != (4, 4) or fxfycxcy.shape[:-1] != c2w.shape[:-2]:
        raise ValueError(
            f"rays: fxfycxcy is {tuple(fxfycxcy.shape)} and c2w {tuple(c2w.shape)}; "
            "wanted (..., 4) and (..., 4, 4) with equal leading dimensions"
        )
    h, w = image_size
    fx, fy, cx, cy = fxfycxcy.float()[..., None].unbind(-2)
    c2w = c2w.float()
    x = (torch.arange(w, device=c2w.device, dtype=torch.float32) + 0.5 - cx) / fx
    y = (torch.arange(h, device=c2w.device, dtype=torch.float32) + 0.5 - cy) / fy
    right, down, forward, position = (column[..., None, None] for column in c2w[..., :3, :].unbind(-1))
    direction = right * x[..., None, None, :] + (down * y[..., None, :, None] + forward)
    direction = direction * direction.square().sum(-3, keepdim=True).rsqrt()
    return position.expand(direction.shape), direction
