"""Scores of a rendering: by hand from the photo, the baselines and the object's box. Letters: h w pixels."""

import numpy as np
import pytest
import torch

from data.output.metrics import SCORES
from model.evaluation import scores
from model.evaluation.scores import Scored, choose_metrics, object_box
from model.metric import psnr, ssim

H, W = 9, 14


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, H, W, generator=torch.Generator().manual_seed(seed))


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * np.log10(((one.double() - other.double()) ** 2).mean().item())


def test_every_score_compares_the_photo_with_what_its_name_says():
    photo, rendered, mean, nearest = pictures(4)
    alpha = torch.zeros(H, W, dtype=torch.uint8)
    alpha[2:7, 3] = 200
    alpha[4, 3:11] = 128
    alpha[8, 13] = 127  # less than half covered
    found = Scored(photo, rendered, torch.stack([nearest, mean]), alpha).scores({"psnr": psnr, "ssim": ssim, "psnr_box": psnr})
    assert set(found) == set(SCORES)
    for suffix, picture in (("", rendered), ("_mean", mean), ("_nearest", nearest)):
        assert found["psnr" + suffix] == pytest.approx(decibels(picture, photo), abs=1e-4)
        assert found["psnr_box" + suffix] == pytest.approx(decibels(picture[:, 2:7, 3:11], photo[:, 2:7, 3:11]), abs=1e-4)
        assert found["ssim" + suffix] == pytest.approx(ssim(picture, photo).item(), abs=1e-6)
        assert found["lpips" + suffix] is None


@pytest.mark.parametrize("alpha", [None, torch.full((H, W), 255, dtype=torch.uint8), torch.zeros(H, W, dtype=torch.uint8)])
def test_a_picture_without_an_object_that_can_be_told_has_no_score_in_its_box(alpha):
    photo, rendered, *baselines = pictures(4)
    found = Scored(photo, rendered, torch.stack(baselines), alpha).scores({"psnr": psnr, "psnr_box": psnr})
    assert [found[name] for name in ("psnr_box", "psnr_box_mean", "psnr_box_nearest")] == [None] * 3
    assert found["psnr"] is not None


def test_the_box_of_a_single_pixel():
    alpha = torch.zeros(H, W, dtype=torch.uint8)
    alpha[8, 0] = 255
    assert object_box(alpha) == (slice(8, 9), slice(0, 1))


def test_lpips_is_not_read_where_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(scores, "resolve_lpips", lambda fetch: pytest.fail("its files were looked for"))
    cpu = torch.device("cpu")
    assert choose_metrics(False, False, True, cpu)[1] == {}
    assert choose_metrics(True, True, True, cpu)[1] == {"lpips": "--no_lpips"}
