"""Table of weight files, published and bundled, and of the two files of LPIPS, with their sources."""

import functools
from dataclasses import dataclass

from config import read_yaml
from config.paths import ROOT

WEIGHT_DIR = ROOT / "weight"


@dataclass(frozen=True)
class KnownWeights:
    """A row of weight/checkpoints.yaml.

    Attributes:
        file: name in weight/.
        config: the network's YAML, relative to the repository's root.
        resolution: (height, width) in pixels that the weights were trained at.
        kind: `object` or `scene`.
        num_input_views: how many input views they were trained with.
        repo: Hugging Face model repository that has the file; None for the bundled model.
    """

    file: str
    config: str
    resolution: tuple[int, int]
    kind: str
    num_input_views: int
    repo: str | None = None


@functools.cache
def known_weights() -> dict[str, KnownWeights]:
    """Return the rows of weight/checkpoints.yaml by file name."""
    groups = read_yaml(ROOT / "weight" / "checkpoints.yaml").values()
    rows = [row for group in groups for row in group.values()]
    return {row["file"]: KnownWeights(**{**row, "resolution": tuple(row["resolution"])}) for row in rows}


def published_weights() -> dict[str, KnownWeights]:
    """Return the rows of `known_weights` that can be downloaded."""
    return {file: row for file, row in known_weights().items() if row.repo is not None}


@dataclass(frozen=True)
class LpipsFile:
    """A file that LPIPS needs: its name in weight/, its source, its size in bytes and its hash."""

    name: str
    url: str
    size: int
    sha256: str


# The first hash begins with the digits in torchvision's file name; the second is that of lpips/weights/v0.1/vgg.pth in lpips 0.1.4.
LPIPS_FILES = (
    LpipsFile(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        553433881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    LpipsFile(
        "lpips_vgg.pth",
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
        7289,
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
)
