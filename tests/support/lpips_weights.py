"""Random weights with the shapes of LPIPS' two files."""

import math

import torch
from torch import Tensor

# torchvision's VGG-16 up to relu5_3, from its published state dict: layer number, output and input channels.
VGG16 = [
    (0, 64, 3), (2, 64, 64),
    (5, 128, 64), (7, 128, 128),
    (10, 256, 128), (12, 256, 256), (14, 256, 256),
    (17, 512, 256), (19, 512, 512), (21, 512, 512),
    (24, 512, 512), (26, 512, 512), (28, 512, 512),
]  # fmt: skip
LAST_OF_GROUP = {2: 64, 7: 128, 14: 256, 21: 512, 28: 512}


def vgg_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, outputs, inputs in VGG16:
        spread = math.sqrt(2 / (9 * inputs))
        weights[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        weights[f"features.{layer}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return weights


def head_weights(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths = enumerate(LAST_OF_GROUP.values())
    return {f"lin{level}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for level, c in widths}
