"""Metrics of an evaluation and the pictures that they compare with a photo; names of scores, a metric of a picture each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric of a picture against a photo.

    Attributes:
        name: in tables.
        unit: of its values.
        digits: behind the point.
        higher: whether higher is better, or lower; None where that is unknown.
    """

    name: str
    unit: str = ""
    digits: int = 4
    higher: bool | None = None


METRICS = {
    "psnr": Metric("PSNR", "dB", 2, True),
    "psnr_box": Metric("object PSNR", "dB", 2, True),
    "ssim": Metric("SSIM", "", 4, True),
    "lpips": Metric("LPIPS", "", 4, False),
}
# What is compared with the photo, by the suffix of the score: first the rendering, then baselines.
PICTURES = {"": "rendering", "_nearest": "nearest input", "_mean": "mean of inputs"}
BASELINES = tuple(suffix for suffix in PICTURES if suffix)
SCORES = tuple(metric + suffix for metric in METRICS for suffix in PICTURES)


def metric_of(score: str) -> Metric:
    """Return the metric of a score."""
    return METRICS[next(score.removesuffix(suffix) for suffix in (*BASELINES, "") if score.endswith(suffix))]
