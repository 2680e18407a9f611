"""Token addresses: where a token looks, as angles φ that rotate what it writes into the fast weights and what it reads there.

A token's place is a few numbers s; its angles are φ = ω_f · s for every number and frequency, ω_f a geometric ladder:

- image: s = (column, row) of the patch's centre;
- line: s = (d, c × d), the Plücker numbers of the ray with centre c and direction d;
- foot: s = a_j · (x − p*), with x the point of the ray nearest to the focus p*, and a_j the six axes of an icosahedron.

`model.ops.rotation` rotates by φ: halves (x1, x2) of a vector become (x1 cos φ − x2 sin φ, x1 sin φ + x2 cos φ).

Letters: b scenes, v views, h w pixels, p patch side, t tokens of a view, l = v·t, n numbers of a place, f frequencies.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from config import AddressConfig
from model.camera import rays

# Weight of the cameras' mean position in the focus, against the optical axes: it decides where the axes leave the focus open.
TOWARDS_CAMERAS = 1e-3
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
NUMBERS_OF_PLACE = {"image": 2, "line": 6, "foot": 6}


class Places(NamedTuple):
    """The geometry of the tokens of some views.

    Attributes:
        from_focus: (b, v, t, 3) camera centre minus the focus, c − p*; minus the origin where no layer uses a focus.
        centre: (b, v, t, 3) camera centre.
        direction: (b, v, t, 3) unit direction of the ray through the patch's centre.
        position: (t, 2) column and row of the patch's centre from the image's centre, in heights of the image.
        rotation: (b, v, 3, 3) world from camera.
    """

    from_focus: Tensor
    centre: Tensor
    direction: Tensor
    position: Tensor
    rotation: Tensor


class Address(NamedTuple):
    """Rotations that one fast-weight layer applies at the tokens' places.

    Attributes:
        turn_qk, turn_hidden: (2, b, l, width / 2), cosine and sine of the angles, float32; None: not rotated.
        rotation: (b, v, 3, 3) world from camera, float32, which rotates values and outputs; None: not rotated.
    """

    turn_qk: Tensor | None
    turn_hidden: Tensor | None
    rotation: Tensor | None


def focus_of(c2w: Tensor) -> Tensor:
    """Return the focus p*, the point nearest to the optical axes of the views, (b, 3) float32.

    It minimises Σ |(I − ddᵀ)(p − c)|² + 10⁻³ Σ |p − c̄|² over the views' axes (centre c, direction d; c̄ is the mean centre): a
    continuous function of the cameras. Parallel axes, or a single view, leave the place along d open: there p* is level with c̄.

    Args:
        c2w: (b, v, 4, 4) world from camera, OpenCV axes, of at least one view.

    Precision: float64 inside. No host sync.
    """
    c2w = c2w.double()
    axis = torch.nn.functional.normalize(c2w[..., :3, 2], dim=-1)
    mean = c2w[..., :3, 3].mean(dim=1)
    centre = c2w[..., :3, 3] - mean[:, None]  # sums of centres far from the origin would lose digits
    identity = torch.eye(3, dtype=torch.float64, device=c2w.device)
    across = identity - axis[..., :, None] * axis[..., None, :]  # I − ddᵀ, its own square
    # The gradient is zero where (mean of I − ddᵀ + 10⁻³ I)(p* − c̄) = mean of (I − ddᵀ)(c − c̄).
    matrix = across.mean(dim=1) + TOWARDS_CAMERAS * identity
    towards = (across * centre[..., None, :]).sum(dim=-1).mean(dim=1)
    return (mean + torch.linalg.solve_ex(matrix, towards[..., None])[0][..., 0]).float()


def places_of(fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int], patch_size: int, focus: Tensor | None) -> Places:
    """Return the places of the tokens of some views.

    Args:
        fxfycxcy: (b, v, 4) in pixels.
        c2w: (b, v, 4, 4) world from camera, OpenCV axes.
        image_size: (h, w), multiples of the patch.
        patch_size: p.
        focus: (b, 3), p*, from `focus_of` the inputs; None where no layer uses it.

    Precision: float32.
    """
    h, w = image_size[0] // patch_size, image_size[1] // patch_size
    # Scaled by 1 / p, every patch is one pixel, and its centre that of the pixel.
    centre, direction = (x.flatten(-2).mT for x in rays(fxfycxcy.float() / patch_size, c2w, (h, w)))
    rows, columns = (torch.arange(n, device=c2w.device, dtype=torch.float32) + 0.5 - n / 2 for n in (h, w))
    position = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1) / h
    from_focus = centre if focus is None else centre - focus.to(centre)[:, None, None]
    return Places(from_focus, centre, direction, position, c2w[..., :3, :3].float())


def address_of(config: AddressConfig, places: Places, width: int) -> Address:
    """Return the address of every token for a layer with heads of `width`: width / 2 angles, 0 where frequencies run out.

    Precision: float32.
    Cost: l · width cosines and sines.
    """
    place = _PLACE[config.phases](places)
    f = frequencies_of(config, width)
    steps = torch.arange(f, device=place.device, dtype=torch.float32) / max(f - 1, 1)
    ladder = config.lowest * (config.highest / config.lowest) ** steps  # ω_f = lowest · (highest / lowest)^(f / (F − 1))
    angle = (place[..., None] * ladder).flatten(-2).flatten(1, 2)
    angle = torch.nn.functional.pad(angle, (0, width // 2 - angle.shape[-1]))  # whole halves of a head, aligned in memory
    turn = torch.stack([angle.cos(), angle.sin()])
    qk, hidden, vo = (site in config.sites for site in ("qk", "hidden", "vo"))
    return Address(turn if qk else None, turn if hidden else None, places.rotation if vo else None)


def frequencies_of(config: AddressConfig, width: int) -> int:
    """Return the number F of frequencies per number of a place: as many as fit heads of `width`, at most `config.frequencies`."""
    most = width // (2 * NUMBERS_OF_PLACE[config.phases])
    return most if config.frequencies is None else min(config.frequencies, most)


def _image(places: Places) -> Tensor:
    """Return s = (column, row), (b, v, t, 2)."""
    return places.position.expand(*places.direction.shape[:-1], 2)


def _line(places: Places) -> Tensor:
    """Return the Plücker numbers of the ray, s = (d, c × d), (b, v, t, 6)."""
    return torch.cat([places.direction, torch.linalg.cross(places.centre, places.direction, dim=-1)], dim=-1)


def _foot(places: Places) -> Tensor:
    """Return the foot x of the perpendicular from the focus p* to the ray, s = a_j · (x − p*), (b, v, t, 6)."""
    along = (places.from_focus * places.direction).sum(dim=-1, keepdim=True)
    x, y, z = (places.from_focus - along * places.direction).unbind(-1)  # x − p* = (c − p*) − ((c − p*) · d) d
    # The axes a_j are (0, short, ±long) and its cyclic permutations, of unit length.
    long = GOLDEN_RATIO / math.hypot(1, GOLDEN_RATIO)
    short = long / GOLDEN_RATIO
    pairs = ((y, z), (z, x), (x, y))
    return torch.stack([short * a + sign * long * b for a, b in pairs for sign in (1, -1)], dim=-1)


_PLACE = {"image": _image, "line": _line, "foot": _foot}
