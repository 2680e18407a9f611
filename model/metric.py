"""Metrics of rendered views against photos: PSNR, SSIM and LPIPS, one number per view.

Letters: c channels, h w pixels. Images are (..., 3, h, w) in 0..1; the leading dimensions (scenes, views) are kept.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from config.errors import InputError, missing_file
from model.weights.checksum import sha256_of
from model.weights.file import read_weights
from model.weights.table import LPIPS_FILES
from model.weights.values import check_values

# VGG-16, configuration D: output channels of its 3×3 convolutions, a max pool between the groups.
_VGG_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SSIM_WINDOW = 7


def psnr(rendered: Tensor, target: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of every view.

    Args:
        rendered, target: (..., 3, h, w) equal shapes; both are clamped to 0..1.

    Returns:
        (...) dB, float32 or float64. Equal images give infinity, which JSON cannot hold: the writer has to replace it.

    Raises:
        ValueError: unequal shapes or not (..., 3, h, w).
    """
    rendered, target = _images(rendered, target, "psnr")
    error = (rendered.clamp(0, 1) - target.clamp(0, 1)).square().mean((-3, -2, -1))
    return -10 * error.log10()


def ssim(rendered: Tensor, target: Tensor) -> Tensor:
    """Compute the structural similarity of every view: 7×7 uniform window, sample covariance, mean over channels.

    Args:
        rendered, target: (..., 3, h, w) equal shapes, h and w >= 7, range 0..1 (not clamped).

    Returns:
        (...) at most 1, float32 or float64.

    Raises:
        ValueError: unequal shapes or not (..., 3, h, w).
        InputError: an image smaller than the window.

    Source: Wang et al. 2004 as in scikit-image's `structural_similarity(channel_axis=..., data_range=1.0)`.
    Precision: float64 inside, since variances are differences of means of squares.
    """
    rendered, target = _images(rendered, target, "ssim", at_least=_SSIM_WINDOW)
    x, y = (image.double().reshape(-1, *image.shape[-3:]) for image in (rendered, target))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    samples = _SSIM_WINDOW**2
    unbiased = samples / (samples - 1)
    variance_x = unbiased * (_window_mean(x * x) - mean_x * mean_x)
    variance_y = unbiased * (_window_mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return similarity.mean((-3, -2, -1)).reshape(rendered.shape[:-3]).to(rendered.dtype)


class LPIPS(nn.Module):
    """Learned perceptual distance on VGG-16, version 0.1, as metric and as training loss.

    Weights are frozen; gradients flow to the images. The images pass through the trunk separately, so a target
    that needs no gradient keeps no activations.

    Args:
        trunk: torchvision's VGG-16 weights by their keys `features.N.weight|bias`; no others.
        heads: `linI.model.1.weight` (1, c, 1, 1), I = 0..4; no others.

    Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 of its published code.
    Precision: the trunk runs in the precision of the weights, or of autocast; differences are float32 at least.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.features, self.taps = _vgg_layers()
        names = {key.removeprefix("features."): value for key, value in trunk.items()}
        self.features.load_state_dict(names, assign=True)
        self.heads = nn.ParameterList([heads[f"lin{level}.model.1.weight"] for level in range(len(self.taps))])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_files(cls, vgg_path: str | os.PathLike, heads_path: str | os.PathLike) -> "LPIPS":
        """Read torchvision's `vgg16-397923af.pth` and the published linear heads, `vgg.pth` of version 0.1.

        Raises:
            FileNotFoundError: a file is missing.
            InputError: a file is not a weight file, is damaged, lacks a weight, or has one of another shape or that is not finite.
        """
        with torch.device("meta"):
            features, _ = _vgg_layers()
        trunk = {f"features.{key}": tuple(value.shape) for key, value in features.state_dict().items()}
        heads = {f"lin{level}.model.1.weight": (1, group[-1], 1, 1) for level, group in enumerate(_VGG_GROUPS)}
        return cls(_read_weights(vgg_path, trunk), _read_weights(heads_path, heads))

    def forward(self, rendered: Tensor, target: Tensor) -> Tensor:
        """Compute the distance of every view.

        Args:
            rendered, target: (..., 3, h, w) equal shapes, h and w >= 16, range 0..1.

        Returns:
            (...) from 0 (equal), float32, or float64 with weights in float64.

        Raises:
            ValueError: unequal shapes or not (..., 3, h, w).
            InputError: an image that the trunk would pool down to nothing.
        """
        rendered, target = _images(rendered, target, "LPIPS", at_least=2 ** (len(_VGG_GROUPS) - 1))
        levels = zip(self.heads, self._levels(rendered), self._levels(target), strict=True)
        distances = [((one - other).square() * head).sum(1).mean((-2, -1)) for head, one, other in levels]
        total = distances[0]
        for distance in distances[1:]:
            total = total + distance
        return total.reshape(rendered.shape[:-3])

    def _levels(self, image: Tensor) -> list[Tensor]:
        """Return the five feature maps (views, c, h, w), unit length over c, of images (..., 3, h, w)."""
        x = (2 * image.reshape(-1, *image.shape[-3:]) - 1 - self.shift) / self.scale
        x = x.to(next(self.features.parameters()).dtype)
        levels = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                level = x if x.dtype == torch.float64 else x.float()
                levels.append(level / (torch.linalg.vector_norm(level, dim=1, keepdim=True) + 1e-10))
        return levels


def _images(rendered: Tensor, target: Tensor, what: str, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Check the two images, and lift both to float32, or to float64 if one of them is."""
    shape = tuple(rendered.shape)
    if shape != tuple(target.shape) or len(shape) < 3 or shape[-3] != 3 or 0 in shape[-2:]:
        raise ValueError(f"{what}: rendered is {shape} and target {tuple(target.shape)}; wanted equal (..., 3, h, w)")
    h, w = shape[-2:]
    if min(h, w) < at_least:
        raise InputError(what, f"got images of height {h} and width {w}", f"{at_least} or more each")
    dtype = torch.float64 if torch.float64 in (rendered.dtype, target.dtype) else torch.float32
    return rendered.to(dtype), target.to(dtype)


def _window_mean(image: Tensor) -> Tensor:
    """Return the mean of every full window, columns first: 14 additions per pixel instead of 49."""
    return functional.avg_pool2d(functional.avg_pool2d(image, (_SSIM_WINDOW, 1), 1), (1, _SSIM_WINDOW), 1)


def _vgg_layers() -> tuple[nn.Sequential, frozenset[int]]:
    """Return VGG-16's convolutional layers by torchvision's numbers, and the numbers at which each group ends."""
    layers: list[nn.Module] = []
    taps = []
    channels = 3
    for group in _VGG_GROUPS:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for width in group:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), frozenset(taps)


def _read_weights(path: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the weights named in `shapes` from a torch file; others, such as VGG's classifier, are ignored.

    A file of a known name is compared with its known hash: 0.5 s per GB, or 2.5 s without support in hardware.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path, f"LPIPS weights, {next(iter(shapes))} and others")
    sha256 = {file.name: file.sha256 for file in LPIPS_FILES}.get(path.name)
    if sha256 is not None and sha256_of(path) != sha256:
        raise InputError(path, f"is damaged (its SHA-256 is not {sha256[:8]}…)", "the published file: delete it and run again")
    found = read_weights(path)
    for key, shape in shapes.items():
        if key not in found or tuple(found[key].shape) != shape:
            has = f"is {tuple(found[key].shape)}" if key in found else "is missing"
            raise InputError(f"{path}, {key}", has, f"{shape}")
        check_values(found[key], f"{path}, {key}", torch.float32)
    return {key: found[key].float() for key in shapes}
