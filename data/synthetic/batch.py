"""Batches of procedural scenes: from (kind, seed, indices) to images and cameras.

Letters: b scenes, v views, h w pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError
from data.synthetic.cameras import object_cameras
from data.synthetic.objects import random_object
from data.synthetic.render import render
from data.synthetic.scenes import random_scene
from data.synthetic.tables import Description, pack

KINDS = ("objects", "scenes")
FIRST_HELD_OUT_SEED = 1_000_000


def describe(
    kind: str, seed: int, index: int, num_views: int, image_size: tuple[int, int], layout: str | None = None
) -> tuple[Description, np.ndarray, np.ndarray]:
    """Draw one scene and its cameras, without rendering.

    Args:
        kind: one of `KINDS`.
        seed, index: 0 or more; the scene does not depend on the arguments after these.
        num_views: v.
        image_size: (h, w).
        layout: of the cameras around objects, see `object_cameras`.

    Returns:
        the scene, c2w (v, 4, 4) and fxfycxcy (v, 4), float64.

    Raises:
        InputError: a number below its minimum, or a layout for scenes.
        ValueError: an unknown kind or layout.
    """
    if kind not in KINDS:
        raise ValueError(f"synthetic data: the kind is {kind!r}; wanted one of {', '.join(KINDS)}")
    for where, value, least in (("--seed", seed, 0), ("index", index, 0), ("--num_views", num_views, 1)):
        if value < least:
            raise InputError(where, f"is {value}", f"{least} or more")
    rng = np.random.default_rng([seed, index, 1])
    if kind == "objects":
        return random_object(seed, index), *object_cameras(rng, num_views, image_size, layout)
    if layout is not None:
        raise InputError("--layout", f"is {layout} for scenes", "none: their cameras follow a walk")
    scene, track = random_scene(seed, index)
    return scene, *track.walk(rng, num_views, image_size)


def synthetic_batch(
    kind: str,
    seed: int,
    indices: Sequence[int],
    num_views: int,
    image_size: tuple[int, int] = (64, 64),
    device: torch.device | str = "cpu",
    samples: int = 4,
) -> dict[str, Tensor]:
    """Render a batch of procedural objects or scenes on a device.

    Args:
        kind: `objects` (on white) or `scenes`.
        seed, indices: b indices, each 0 or more. A scene does not depend on the others of its batch.
        num_views: v.
        image_size: (h, w).
        device: where the views are rendered and returned.
        samples: rays per pixel, a power of two.

    Returns:
        `image` (b, v, 3, h, w) float32 in 0..1, `alpha` (b, v, 1, h, w) float32 in 0..1, `fxfycxcy` (b, v, 4) float32 in
        pixels, `c2w` (b, v, 4, 4) float32, world from camera with OpenCV axes and the world's z up.

    Raises:
        InputError, ValueError: no index, or as in `describe` and `render`.
    """
    if len(indices) == 0:
        raise ValueError("synthetic_batch: no index; wanted at least one")
    scenes, poses, cameras = zip(*(describe(kind, seed, int(i), num_views, image_size) for i in indices), strict=True)
    c2w = torch.from_numpy(np.stack(poses)).float().to(device)
    fxfycxcy = torch.from_numpy(np.stack(cameras)).float().to(device)
    views = render(pack(scenes, device=device), c2w, fxfycxcy, image_size, samples)
    return {"image": views["image"], "alpha": views["alpha"], "fxfycxcy": fxfycxcy, "c2w": c2w}
