"""Scores of a rendering: metrics, the same of two baselines, and PSNR in the object's box. Letters: h w pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from data.output.metrics import BASELINES, METRICS, SCORES
from model.metric import LPIPS, psnr, ssim
from model.weights.hub import resolve_lpips

# Of images (…, 3, h, w) in pairs: (…) values.
Metric = Callable[[Tensor, Tensor], Tensor]
Metrics = dict[str, Metric]
# Least alpha of the object, of 255.
OPAQUE = 128


@dataclass(frozen=True)
class Scored:
    """A target's photo, and the pictures that are compared with it.

    Attributes:
        photo: (3, h, w) in 0..1.
        rendered: (3, h, w).
        baselines: (2, 3, h, w) in the order of `BASELINES`: the nearest input, and the mean of the inputs.
        alpha: (h, w) uint8 of the photo; None where the object is not to be told from its background.
    """

    photo: Tensor
    rendered: Tensor
    baselines: Tensor
    alpha: Tensor | None = None

    def scores(self, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
        """Return all `SCORES`; None for those that are not in `metrics`, and for the box of an object that cannot be told."""
        compared = torch.cat([self.rendered[None], self.baselines.to(self.rendered)])
        photo = self.photo.to(compared).expand_as(compared)
        box = None if self.alpha is None else object_box(self.alpha)
        values: dict[str, list[float]] = {}
        for name, metric in metrics.items():
            if name != "psnr_box":
                values[name] = metric(compared, photo).tolist()
            elif box is not None:
                rows, columns = box
                values[name] = metric(compared[..., rows, columns], photo[..., rows, columns]).tolist()
        scores: dict[str, float | None] = dict.fromkeys(SCORES)
        for name, of_all in values.items():
            scores |= zip((name, *(name + baseline for baseline in BASELINES)), of_all, strict=True)
        return scores


def object_box(alpha: Tensor) -> tuple[slice, slice] | None:
    """Return the rows and columns of the smallest box around an object.

    Args:
        alpha: (h, w) uint8.

    Returns:
        None where the picture is opaque everywhere, or transparent everywhere: there is no object to be told.
    """
    inside = alpha >= OPAQUE
    if bool(inside.all()) or not bool(inside.any()):
        return None
    rows, columns = (inside.any(dim).nonzero()[:, 0] for dim in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def choose_metrics(any_targets: bool, no_lpips: bool, fetch: bool, device: torch.device) -> tuple[Metrics, dict[str, str]]:
    """Return the metrics to compute, and why others are not.

    Args:
        any_targets: whether there is anything to measure; if not, LPIPS's weights are not read.
        no_lpips: leave LPIPS out.
        fetch: download LPIPS's files where they are missing.
        device: of the images.
    """
    metrics: Metrics = {"psnr": psnr, "ssim": ssim, "psnr_box": psnr}
    assert set(metrics) <= set(METRICS)
    if no_lpips:
        return metrics, {"lpips": "--no_lpips"}
    if any_targets:
        try:
            metrics["lpips"] = LPIPS.from_files(*resolve_lpips(fetch=fetch)).to(device)
        except OSError as error:
            return metrics, {"lpips": str(error)}
    return metrics, {}
