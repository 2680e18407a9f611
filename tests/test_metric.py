"""PSNR by hand, SSIM against scikit-image, LPIPS against plain NumPy on the published layer table."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from config.errors import InputError
from model.metric import LPIPS, psnr, ssim
from model.weights.checksum import sha256_of
from model.weights.table import LPIPS_FILES
from tests.support.lpips_weights import LAST_OF_GROUP, VGG16, head_weights, vgg_weights


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return LPIPS(vgg_weights(), head_weights())


def test_psnr_of_known_errors() -> None:
    target = torch.full((2, 3, 3, 4, 5), 0.25)
    rendered = target.clone()
    rendered[0, 0] += 0.1
    rendered[1, 2, 1] -= 0.01
    got = psnr(rendered, target)
    assert got.shape == (2, 3)
    # 0.1 everywhere is 20 dB; 0.01 in one channel of three is 40 dB + 10·log10(3).
    assert got[0, 0].item() == pytest.approx(20.0, abs=1e-4)
    assert got[1, 2].item() == pytest.approx(40 + 10 * math.log10(3), abs=1e-3)
    assert got[0, 1].item() == math.inf


def test_psnr_clamps_both_images() -> None:
    rendered, target = torch.full((3, 4, 5), 1.5), torch.full((3, 4, 5), -0.5)
    assert psnr(rendered, target).item() == pytest.approx(0.0, abs=1e-6)
    target[0] = 3.0
    assert psnr(rendered, target).item() == pytest.approx(10 * math.log10(1.5), abs=1e-5)


def test_psnr_of_bfloat16_is_computed_in_float32() -> None:
    rendered, target = random_image(3, 6, 5).bfloat16(), random_image(3, 6, 5, seed=1).bfloat16()
    got = psnr(rendered, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(psnr(rendered.double(), target.double()).item(), abs=1e-4)


@pytest.mark.parametrize("size", [(7, 7), (7, 30), (23, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ssim_equals_scikit_image(size: tuple[int, int], dtype: torch.dtype) -> None:
    target = random_image(2, 3, 3, *size)
    # From nearly equal to unrelated, and a flat image, whose variance is all rounding.
    noise = random_image(2, 3, 3, *size, seed=2) * torch.tensor([0.01, 0.1, 1.0]).view(3, 1, 1, 1)
    rendered = (target + noise).clamp(0, 1).to(dtype)
    target = target.to(dtype)
    rendered[1, 2], target[1, 2] = 0.7, 0.71
    got = ssim(rendered, target)
    assert got.shape == (2, 3)
    assert got.dtype == dtype
    for scene in range(2):
        for view in range(3):
            one, other = rendered[scene, view].double().numpy(), target[scene, view].double().numpy()
            expected = structural_similarity(one, other, channel_axis=0, data_range=1.0)
            # float32 epsilon is 1.2e-7.
            assert got[scene, view].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_of_equal_images_is_one_and_carries_gradients() -> None:
    image = random_image(3, 9, 11).requires_grad_()
    assert ssim(image, image.detach()).item() == pytest.approx(1.0, abs=1e-12)
    ssim(image, random_image(3, 9, 11, seed=3)).backward()
    assert image.grad.abs().min() > 0


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("shapes", [((3, 8, 9), (3, 9, 8)), ((1, 8, 9), (1, 8, 9)), ((8, 9), (8, 9)), ((3, 0, 9), (3, 0, 9))])
def test_shapes_that_are_no_pair_of_images_are_refused(metric: object, shapes: tuple) -> None:
    with pytest.raises(ValueError, match=r"rendered is .* wanted equal \(\.\.\., 3, h, w\)"):
        metric(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_images_smaller_than_the_window_are_refused(lpips: LPIPS) -> None:
    with pytest.raises(InputError, match=r"ssim: got images of height 6 and width 20; wanted 7 or more each"):
        ssim(torch.ones(3, 6, 20), torch.ones(3, 6, 20))
    with pytest.raises(InputError, match=r"LPIPS: got images of height .*; wanted 16 or more each"):
        lpips(torch.ones(3, 20, 15), torch.ones(3, 20, 15))


def numpy_lpips(rendered: np.ndarray, target: np.ndarray, trunk: dict, heads: dict) -> float:
    """Compute LPIPS of two (3, h, w) images with nothing but NumPy, layer by layer as the paper's release describes."""
    distance = 0.0
    maps = []
    for image in (rendered, target):
        mean, std = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x = ((image * 2 - 1) - mean[:, None, None]) / std[:, None, None]
        levels = []
        for layer, outputs, _ in VGG16:
            _, h, w = x.shape
            weight, bias = trunk[f"features.{layer}.weight"].numpy(), trunk[f"features.{layer}.bias"].numpy()
            padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
            x = np.zeros((outputs, h, w)) + bias[:, None, None]
            for i in range(3):
                for j in range(3):
                    x += np.tensordot(weight[:, :, i, j].astype(np.float64), padded[:, i : i + h, j : j + w], axes=1)
            x = np.maximum(x, 0)
            if layer in LAST_OF_GROUP:
                levels.append(x / (np.sqrt((x**2).sum(0)) + 1e-10))
                x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(outputs, h // 2, 2, w // 2, 2).max((2, 4))
        maps.append(levels)
    for level, (one, other) in enumerate(zip(*maps, strict=True)):
        weight = heads[f"lin{level}.model.1.weight"].numpy().reshape(-1)
        distance += np.tensordot(weight, (one - other) ** 2, axes=1).mean()
    return float(distance)


def test_lpips_equals_plain_numpy(lpips: LPIPS) -> None:
    rendered, target = random_image(1, 2, 3, 18, 21), random_image(1, 2, 3, 18, 21, seed=1)
    got = lpips(rendered.float(), target.float())
    assert got.shape == (1, 2)
    for view in range(2):
        expected = numpy_lpips(rendered[0, view].numpy(), target[0, view].numpy(), vgg_weights(), head_weights())
        # float32 through 13 layers: measured 4e-8 relative.
        assert got[0, view].item() == pytest.approx(expected, rel=1e-5)


def test_lpips_is_zero_for_equal_images_symmetric_and_per_view(lpips: LPIPS) -> None:
    one, other = random_image(2, 3, 16, 19).float(), random_image(2, 3, 16, 19, seed=1).float()
    assert torch.equal(lpips(one, one), torch.zeros(2))
    torch.testing.assert_close(lpips(one, other), lpips(other, one), rtol=1e-6, atol=0)
    assert lpips(one[1], other[1]).shape == ()
    torch.testing.assert_close(lpips(one[1], other[1]), lpips(one, other)[1], rtol=1e-5, atol=0)


def test_lpips_takes_any_precision(lpips: LPIPS) -> None:
    one, other = random_image(3, 16, 16), random_image(3, 16, 16, seed=1)
    expected = lpips(one.float(), other.float())
    torch.testing.assert_close(lpips(one, other), expected, rtol=1e-5, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = lpips(one.float(), other.float())
        assert torch.equal(lpips(one.float(), one.float()), torch.zeros(()))
    assert lowered.dtype == torch.float32
    # bfloat16 keeps 8 bits, 0.4 %, and sums are float32: measured 0.05 %.
    torch.testing.assert_close(lowered, expected, rtol=0.01, atol=0)
    assert lowered != expected


def test_lpips_is_frozen_and_passes_gradients_to_the_image(lpips: LPIPS) -> None:
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    image = random_image(3, 17, 16).float().requires_grad_()
    lpips(image, random_image(3, 17, 16, seed=1).float()).backward()
    assert image.grad.isfinite().all()
    assert (image.grad.abs().amax(0) > 0).all()


def test_lpips_stays_finite_where_no_channel_is_active() -> None:
    trunk = vgg_weights()
    trunk["features.0.bias"] = torch.full((64,), -100.0)
    trunk["features.2.bias"] = torch.full((64,), -1.0)
    image = random_image(3, 16, 16).float().requires_grad_()
    distance = LPIPS(trunk, head_weights())(image, random_image(3, 16, 16, seed=1).float())
    distance.backward()
    assert distance.isfinite()
    assert image.grad.isfinite().all()


def test_lpips_reads_the_published_files(lpips: LPIPS, tmp_path: Path) -> None:
    torch.save(vgg_weights() | {"classifier.0.weight": torch.ones(2, 3)}, tmp_path / "vgg16.pth")
    torch.save(head_weights(), tmp_path / "vgg.pth")
    read = LPIPS.from_files(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    one, other = random_image(3, 16, 16).float(), random_image(3, 16, 16, seed=1).float()
    assert torch.equal(read(one, other), lpips(one, other))


def test_lpips_names_the_file_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    vgg, heads = tmp_path / "vgg16.pth", tmp_path / "heads.pth"
    with pytest.raises(FileNotFoundError, match=r"vgg16.pth: is not there; wanted LPIPS weights, features.0.weight"):
        LPIPS.from_files(vgg, heads)
    torch.save(vgg_weights(), vgg)
    with pytest.raises(FileNotFoundError, match=r"heads.pth: is not there; wanted LPIPS weights, lin0.model.1.weight"):
        LPIPS.from_files(vgg, heads)
    torch.save(head_weights() | {"lin3.model.1.weight": torch.ones(1, 256, 1, 1)}, heads)
    with pytest.raises(InputError, match=r"heads.pth, lin3.model.1.weight: is \(1, 256, 1, 1\); wanted \(1, 512, 1, 1\)"):
        LPIPS.from_files(vgg, heads)
    torch.save({key: value for key, value in vgg_weights().items() if key != "features.14.bias"}, vgg)
    with pytest.raises(InputError, match=r"vgg16.pth, features.14.bias: is missing; wanted \(256,\)"):
        LPIPS.from_files(vgg, heads)
    torch.save([torch.ones(2)], vgg)
    with pytest.raises(InputError, match=r"vgg16.pth: holds a list; wanted a state dict"):
        LPIPS.from_files(vgg, heads)


def test_lpips_files_of_known_names_have_their_known_content(lpips: LPIPS, tmp_path: Path, monkeypatch) -> None:
    trunk, heads = (tmp_path / file.name for file in LPIPS_FILES)
    torch.save(vgg_weights(), trunk)
    torch.save(head_weights(), heads)
    with pytest.raises(InputError, match=r"vgg16-397923af.pth: is damaged \(.*397923af…\); wanted .*: delete it and run again"):
        LPIPS.from_files(trunk, heads)
    known = [dataclasses.replace(file, sha256=sha256_of(tmp_path / file.name)) for file in LPIPS_FILES]
    monkeypatch.setattr("model.metric.LPIPS_FILES", known)
    LPIPS.from_files(trunk, heads)
    with heads.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(InputError, match=r"lpips_vgg.pth: is damaged"):
        LPIPS.from_files(trunk, heads)


def test_lpips_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save(vgg_weights() | {"features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=r"vgg.pth, features.0.bias: holds 64 numbers that are not finite"):
        LPIPS.from_files(tmp_path / "vgg.pth", tmp_path / "heads.pth")


def test_lpips_reads_nothing_but_weights(tmp_path: Path) -> None:
    vgg = tmp_path / "vgg16.pth"
    torch.save({"features.0.weight": Path("/")}, vgg)
    for content in (vgg.read_bytes(), b"", b"<html>404</html>"):
        vgg.write_bytes(content)
        with pytest.raises(InputError, match=r"vgg16.pth: (needs|cannot be read).*; wanted"):
            LPIPS.from_files(vgg, tmp_path / "heads.pth")
