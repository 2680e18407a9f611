"""Checks of what callers give the network. Letters: b scenes, v views, h w pixels."""

import re

import numpy as np
import pytest
import torch

from config.errors import InputError
from model import LaCTLVSM, PosedImages
from model.checks import check_cameras, check_images, check_size
from tests.support.networks import cameras, random_views, small_model

B, V, H, W = 2, 3, 8, 12


@pytest.fixture(scope="module")
def model() -> LaCTLVSM:
    return small_model("self_attention", "fast_weight", "mlp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: (x * 255).to(torch.uint8),
            "is uint8 (3, 3, 8, 12); wanted float32 (views, 3, height, width) in 0..1: image / 255",
        ),
        (
            lambda x: (x * 255).to(torch.uint8).movedim(-3, -1).numpy(),
            "is uint8 (3, 8, 12, 3); wanted float32 (views, 3, height, width) in 0..1: image.movedim(-1, -3) / 255",
        ),
        (lambda x: x.movedim(-3, -1), "is float32 (3, 8, 12, 3); wanted float32 (views, 3, height, width) in 0..1: image.movedim("),
        (
            lambda x: (x * 65535).to(torch.uint16),
            "is uint16 (3, 3, 8, 12); wanted float32 (views, 3, height, width) in 0..1: image / 6",
        ),
        (lambda x: x.long(), "is int64 (3, 3, 8, 12); wanted float32 (views, 3, height, width) in 0..1"),
        (lambda x: x[0], "is float32 (3, 8, 12); wanted float32 (views, 3, height, width) in 0..1: image[None]"),
        (lambda x: x[0, 0], "is float32 (8, 12); wanted float32 (views, 3, height, width) in 0..1"),
        (lambda x: x[:, :1], "is float32 (3, 1, 8, 12); wanted float32"),
        (lambda x: x * 255, "reaches from 0 to 255; wanted numbers in 0..1 (image / 255)"),
        (lambda x: x * 2 - 1, "reaches from -1 to 1; wanted numbers in 0..1 (image / 2 + 0.5)"),
        (lambda x: (x - 0.5) * 5, "reaches from -2.5 to 2.5; wanted numbers in 0..1"),
        (lambda x: x / 0, "holds numbers that are not finite; wanted numbers in 0..1"),
        (lambda x: torch.where(x == 0, torch.nan, x), "holds numbers that are not finite; wanted numbers in 0..1"),
        (lambda x: x > 0.5, "holds torch.bool; wanted a tensor or an array (views, 3, height, width)"),
        (lambda x: np.array(["a"]), "holds <U1; wanted a tensor or an array"),
        (lambda x: list(x), "is a list; wanted a tensor or an array (views, 3, height, width), such as torch.stack(images)"),
        (lambda x: None, "is nothing; wanted a tensor or an array"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(change, message):
    image = random_views(1, V, H, W)["image"][0]
    image.view(-1)[:2] = torch.tensor([0.0, 1.0])
    with pytest.raises(InputError, match=rf"^images: {re.escape(message)}"):
        check_images(change(image), "images")


def edited(x: torch.Tensor, at: tuple, value: float) -> torch.Tensor:
    x = x.clone()
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, c: (k[0, 0], c), "fxfycxcy: is (4,); wanted (views, 4): fx, fy, cx, cy in pixels"),
        (
            lambda k, c: (torch.eye(3).expand(2, 3, 3, 3), c),
            "fxfycxcy: is (2, 3, 3, 3); wanted (views, 4): fx, fy, cx, cy in pixels: K[",
        ),
        (lambda k, c: (k, c[..., :3, :]), "c2w: is (2, 3, 3, 4); wanted (views, 4, 4) with a last row of 0 0 0 1"),
        (lambda k, c: (k, c[0, 0]), "c2w: is (4, 4); wanted (views, 4, 4)"),
        (lambda k, c: (k[0], c[0, :2]), "cameras: have fxfycxcy (3, 4) and c2w (2, 4, 4); wanted both of the same views"),
        (lambda k, c: (k, c[0]), "cameras: have fxfycxcy (2, 3, 4) and c2w (3, 4, 4); wanted both"),
        (lambda k, c: (k, None), "c2w: is nothing; wanted a tensor or an array (views, 4, 4)"),
        (lambda k, c: (k.tolist(), c), "fxfycxcy: is a list; wanted a tensor or an array (views, 4): fx"),
        (lambda k, c: (edited(k, (1, 0, 1), 0.0), c), "fxfycxcy, scene 1, view 0: is"),
        (lambda k, c: (edited(k, (1, 2, 3), torch.nan), c), "fxfycxcy, scene 1, view 2: is"),
        (lambda k, c: (edited(k[0], (2, 0), -1.0), c[0]), "fxfycxcy, view 2: is -1,"),
        (
            lambda k, c: (k, edited(c, (0, 2, 1, 3), torch.nan)),
            "c2w, scene 0, view 2: holds numbers that are not finite; wanted finite",
        ),
        (lambda k, c: (k[:1], edited(c[:1], (0, 2, 1, 3), torch.inf)), "c2w, view 2: holds numbers that are not finite"),
        (lambda k, c: (k, c.mT), "c2w, scene 0, view 0: has the last row ["),
        (lambda k, c: (k, edited(c, (1, 1, 0, 0), 3.0)), "c2w, scene 1, view 1: has a 3×3 part"),
        (
            lambda k, c: (k, c * torch.tensor([-1.0, 1, 1, 1])),
            "c2w, scene 0, view 0: is a mirrored pose (determinant -1); wanted x right",
        ),
    ],
)
def test_cameras_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(InputError, match=rf"^here, {re.escape(message)}"):
        check_cameras(*change(*cameras(random_views(B, V, H, W))), "here")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (64, "is an int; wanted (height, width), two whole numbers"),
        (None, "is nothing; wanted (height, width)"),
        (torch.tensor([8, 12]), "is a Tensor; wanted (height, width)"),
        ((8.0, 12), "is (8.0, 12); wanted (height, width), two whole numbers"),
        ((8, 12, 3), "is (8, 12, 3); wanted (height, width), two whole numbers"),
        ((8, 13), "has the width 13; wanted a multiple of the patch 4: 12 or 16"),
        ((0, 12), "has the height 0; wanted a multiple of the patch 4: 4"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(size, message):
    with pytest.raises(InputError, match=rf"^size: {re.escape(message)}"):
        check_size(size, 4, "size")
    assert check_size([np.int64(8), 12], 4, "size") == (8, 12)


def test_what_resampling_and_rounding_leave_is_accepted():
    views = random_views(1, V, H, W)
    overshooting = views["image"] * 1.6 - 0.3
    assert check_images(overshooting, "images") is overshooting
    assert check_images(overshooting.bfloat16(), "images").dtype == torch.bfloat16
    rounded = views["c2w"].bfloat16()
    assert check_cameras(views["fxfycxcy"].round().long(), rounded, "here")[1] is rounded


def test_arrays_render_what_tensors_do(model):
    given, wanted = random_views(B, V, H, W), random_views(B, 2, H, W, seed=3)
    expected = model.render(model.reconstruct(**given), *cameras(wanted), (H, W))
    arrays = {name: x.numpy().astype(np.float64) for name, x in given.items()}
    arrays["image"].flags.writeable = False
    arrays["c2w"] = np.ascontiguousarray(arrays["c2w"][:, ::-1])[:, ::-1]  # negative strides
    arrays["fxfycxcy"] = arrays["fxfycxcy"].astype(">f4")
    state = model.reconstruct(**arrays)
    assert torch.equal(model.render(state, *(x.numpy() for x in cameras(wanted)), [H, W]), expected)


def test_one_scene_may_go_without_its_dimension(model):
    given, wanted = random_views(1, V, H, W), random_views(1, 5, H, W, seed=3)
    state = model.reconstruct(**{name: x[0] for name, x in given.items()})
    assert state.c2w.shape == (1, V, 4, 4)
    expected = model.render(model.reconstruct(**given), *cameras(wanted), (H, W))
    assert expected.shape == (1, 5, 3, H, W)
    assert torch.equal(model.render(state, *(x[0] for x in cameras(wanted)), (H, W)), expected[0])
    chunks = list(model.render_stream(state, *(x[0] for x in cameras(wanted)), (H, W), chunk_views=2))
    assert [chunk.shape for chunk in chunks] == [(2, 3, H, W), (2, 3, H, W), (1, 3, H, W)]
    several = model.reconstruct(**random_views(2, V, H, W))
    with pytest.raises(InputError, match="scene state: holds 2 scenes; wanted 1, as many as the new cameras have"):
        model.render(several, *(x[0] for x in cameras(wanted)), (H, W))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, v, s: m.reconstruct(v["image"][:, :, :, 1:], *cameras(v)),
            "reconstruct, image: has the height 7; wanted a multiple",
        ),
        (
            lambda m, v, s: m.reconstruct(v["image"][:, 1:], *cameras(v)),
            "reconstruct, image: is (1, 2, 3, 8, 12), and fxfycxcy (1, 3, 4)",
        ),
        (lambda m, v, s: m.reconstruct(v["image"]), "reconstruct, fxfycxcy: is nothing; wanted a tensor"),
        (
            lambda m, v, s: m.reconstruct(PosedImages(**v), *cameras(v)),
            "reconstruct: is given a scene and cameras; wanted the scene al",
        ),
        (lambda m, v, s: m.reconstruct(**v, chunk_views=1.5), "chunk_views: is 1.5; wanted 1 or more, or None: by free memory"),
        (lambda m, v, s: m.render(s, *cameras(v)), "render, image_size: is nothing; wanted (height, width), two whole numbers"),
        (lambda m, v, s: m.render(s, *cameras(v), 8), "render, image_size: is an int; wanted (height, width), two whole numbers"),
        (
            lambda m, v, s: m.render(s, PosedImages(**v), image_size=(8, 12)),
            "render: is given cameras with a size of their own, and c2w",
        ),
        (lambda m, v, s: m.render(*cameras(v), s, (8, 12)), "render, c2w: is a SceneState; wanted a tensor or an array"),
        (
            lambda m, v, s: m.render("state", *cameras(v), (8, 12)),
            "scene state: is a str; wanted what reconstruct or SceneState.load ret",
        ),
        (
            lambda m, v, s: m.render(s, v["fxfycxcy"] * torch.nan, v["c2w"], (8, 12)),
            "render, fxfycxcy, view 0: is nan, nan, nan, nan; want",
        ),
    ],
)
def test_the_network_refuses_it_in_one_line(model, call, message):
    views = random_views(1, V, H, W)
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as caught:
        call(model, views, model.reconstruct(**views))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_values_on_a_gpu_are_not_waited_for():
    views = {name: x.cuda() for name, x in random_views(1, V, H, W).items()}
    assert check_images(views["image"] * 255, "images").is_cuda
    assert check_cameras(*(x * torch.nan for x in cameras(views)), "here")[0].is_cuda
