"""Scene datasets: chosen views as tensors. Letters: h w pixels."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from config.errors import InputError
from data import dataset as dataset_module
from data.dataset import SceneDataset, Windows, load_views
from data.image_size import check_image_size
from data.scene_format import read_scene
from tests.support.scenes import write_random_data_path, write_random_scene


@pytest.fixture
def scene(tmp_path):
    return read_scene(write_random_scene(tmp_path / "chair", n=5, size=(22, 29)))


def pixels_of(view):
    return np.asarray(Image.open(view.file_path))


def test_views_come_as_asked(scene):
    batch = load_views(scene, [3, 0, 3], (22, 29), patch_size=1)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((3, 3, 22, 29), torch.float32),
        "fxfycxcy": ((3, 4), torch.float32),
        "c2w": ((3, 4, 4), torch.float32),
    }
    for i, view in enumerate([scene.views[3], scene.views[0], scene.views[3]]):
        expect = torch.from_numpy(pixels_of(view).astype(np.float32) / 255).permute(2, 0, 1)
        assert torch.equal(batch["image"][i], expect)
        assert torch.equal(batch["fxfycxcy"][i], torch.tensor([view.fx, view.fy, view.cx, view.cy]))
        # float32 inverse of poses with coordinates up to 3.5
        np.testing.assert_allclose(batch["c2w"][i].numpy() @ view.w2c, np.eye(4), atol=2e-6)


def test_what_the_scale_leaves_over_is_cropped_at_the_centre(scene):
    batch = load_views(scene, [2], (22, 24), patch_size=2)
    view = scene.views[2]
    # (29 − 24) // 2 = 2 columns go on the left
    np.testing.assert_allclose(batch["image"][0].permute(1, 2, 0) * 255, pixels_of(view)[:, 2:26], rtol=1e-6)
    np.testing.assert_allclose(batch["fxfycxcy"][0], (view.fx, view.fy, view.cx - 2, view.cy), rtol=1e-6)


def test_intrinsics_follow_an_image_of_another_scale(scene):
    view = scene.views[1]
    Image.fromarray(pixels_of(view)).resize((58, 44)).save(view.file_path)
    batch = load_views(scene, [1], (44, 56), patch_size=4)
    expect = (2 * view.fx, 2 * view.fy, 2 * view.cx - 1, 2 * view.cy)
    np.testing.assert_allclose(batch["fxfycxcy"][0], expect, rtol=1e-6)


def test_image_of_another_shape_names_file_and_sizes(scene):
    view = scene.views[1]
    Image.fromarray(pixels_of(view)).rotate(90, expand=True).save(view.file_path)
    message = "images/00001.png: is 22×29 (w×h) when upright; wanted the 29×22 of its camera"
    with pytest.raises(InputError, match=re.escape(message)):
        load_views(scene, [0, 1], (16, 16))


def test_only_the_middle_of_a_long_strip_is_scaled(tmp_path):
    scene = read_scene(write_random_scene(tmp_path / "strip", n=1, size=(1, 20_000)))
    batch = load_views(scene, [0], (128, 128), patch_size=4)  # the whole of it would take 1 GB
    middle = pixels_of(scene.views[0])[0, 10_000] / 255
    np.testing.assert_allclose(batch["image"][0, :, 64, 127], middle, atol=0.01)  # half a pixel wide on either side of 10000


def test_16_bit_image_is_scaled_once(scene):
    view = scene.views[0]
    Image.fromarray(pixels_of(view)[..., 0].astype(np.uint16) * 257).save(view.file_path)
    expect = np.asarray(Image.open(view.file_path)) / 65535
    batch = load_views(scene, [0], (22, 29), patch_size=1)
    np.testing.assert_allclose(batch["image"][0, 1], expect, atol=1e-7)


def test_alpha_is_scaled_and_cropped_like_the_image(tmp_path):
    scene = read_scene(write_random_scene(tmp_path / "cup", n=3, size=(22, 29)))
    opaque = np.zeros((22, 29), np.uint8)
    opaque[3:12, 10:20] = 255
    for view, alpha in zip(scene.views, (None, opaque, np.full((22, 29), 255, np.uint8)), strict=True):
        if alpha is not None:
            Image.fromarray(np.dstack([np.zeros((22, 29, 3), np.uint8), alpha])).save(view.file_path)
    # Doubled, and two columns cut from each side: a black box on white, in the image as in its alpha.
    batch = load_views(scene, [0, 1, 2], (44, 54), patch_size=2, alpha=True, workers=2)
    assert batch["alpha"].shape == (3, 44, 54)
    assert batch["alpha"].dtype == torch.uint8
    assert batch["alpha"][0].eq(255).all()
    assert batch["alpha"][2].eq(255).all()
    rows, columns = (batch["alpha"][1] >= 128).nonzero().unbind(1)
    assert [int(x) for x in (rows.min(), rows.max(), columns.min(), columns.max())] == [6, 23, 18, 37]
    np.testing.assert_allclose(batch["image"][1, 0] * 255, 255 - batch["alpha"][1].float(), atol=1.01)  # each is rounded
    assert set(load_views(scene, [1], (44, 54), patch_size=2)) == {"image", "fxfycxcy", "c2w"}


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_threads_change_nothing(scene, workers):
    alone = load_views(scene, [4, 1, 0, 3], (16, 24), alpha=True)
    together = load_views(scene, [4, 1, 0, 3], (16, 24), workers=workers, alpha=True)
    assert all(torch.equal(alone[key], together[key]) for key in alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_image_is_named(scene, workers):
    scene.views[2].file_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"images/00002\.png: is not there; wanted an image"):
        load_views(scene, range(5), (16, 16), workers=workers)


def test_no_views_are_no_error(scene):
    batch = load_views(scene, [], (16, 24))
    assert [tuple(value.shape) for value in batch.values()] == [(0, 3, 16, 24), (0, 4), (0, 4, 4)]


@pytest.mark.parametrize("i", [5, -1])
def test_index_out_of_range(scene, i):
    with pytest.raises(ValueError, match=rf"opencv_cameras.json: view {i} is requested; wanted 0 to 4"):
        load_views(scene, [0, i], (16, 16))


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        ((500, 512), 8, "--image_size: has the height 500; wanted a multiple of the patch 8: 496 or 504"),
        ((512, 515), 8, "--image_size: has the width 515; wanted a multiple of the patch 8: 512 or 520"),
        ((24, 5), 6, "--image_size: has the width 5; wanted a multiple of the patch 6: 6"),
        ((0, 16), 8, "--image_size: has the height 0; wanted a multiple of the patch 8: 8"),
        ((-8, 16), 8, "--image_size: has the height -8; wanted a multiple of the patch 8: 8"),
    ],
)
def test_size_that_the_patch_does_not_divide(scene, size, patch, message):
    for call in (
        lambda: check_image_size(size, patch),
        lambda: load_views(scene, [0], size, patch),
        lambda: SceneDataset(scene.json_path, size, patch),
    ):
        with pytest.raises(InputError, match=f"^{message}$"):
            call()


def test_dataset_lists_scenes_in_order(tmp_path):
    dataset = SceneDataset(write_random_data_path(tmp_path, scenes=3, n=4), image_size=(16, 24), workers=2)
    assert len(dataset) == 3
    assert [scene.name for scene in dataset] == ["scene_0", "scene_1", "scene_2"]
    scene = dataset[1]
    batch, expect = dataset.load(scene, [2, 1]), load_views(scene, [2, 1], (16, 24))
    assert all(torch.equal(batch[key], expect[key]) for key in expect)


def test_a_scene_is_read_again_only_when_its_file_has_changed(tmp_path, monkeypatch):
    dataset = SceneDataset(write_random_data_path(tmp_path, scenes=2, n=4), image_size=(16, 24))
    first = dataset[0]
    monkeypatch.setattr(dataset_module, "read_scene", lambda path: pytest.fail(f"{path} was read again"))
    assert dataset[0] is first
    monkeypatch.undo()
    path = dataset.scene_paths[0]
    path.write_text(json.dumps(json.loads(path.read_text())[:3]))
    assert len(dataset[0].views) == 3
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"scene_0/opencv_cameras.json: is not there; wanted a scene's JSON"):
        dataset[0]


def test_dataset_works_in_loader_processes(tmp_path):
    dataset = SceneDataset(write_random_data_path(tmp_path, scenes=3, n=2), (16, 24))
    loader = DataLoader(dataset, batch_size=None, num_workers=1)
    assert [scene.name for scene in loader] == ["scene_0", "scene_1", "scene_2"]


def jpeg_scene(folder, size: tuple[int, int], orientation: int = 1):
    """Return a scene of one JPEG, stored at a size (h, w) and turned by its EXIF."""
    scene = read_scene(write_random_scene(folder, n=1, size=size[::-1] if orientation >= 5 else size))
    view = scene.views[0]
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.open(view.file_path).resize(size[::-1], Image.Resampling.BICUBIC)
    image.save(view.file_path, format="JPEG", quality=95, exif=exif)
    return scene


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "scale"), [((256, 320), 4), ((130, 160), 2), ((128, 161), 1), ((120, 160), 1)])
def test_jpegs_are_decoded_at_the_size_that_suffices(tmp_path, monkeypatch, size, scale, orientation):
    scene = jpeg_scene(tmp_path / "chair", size, orientation)
    wanted = (40, 32) if orientation >= 5 else (32, 40)
    expect = load_views(scene, [0], wanted, patch_size=8)
    decoded = []
    whole = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, *mode: decoded.append(image.size) or whole(image, *mode))
    found = load_views(scene, [0], wanted, patch_size=8, reduced=True)
    assert decoded[0] == (size[1] // scale, size[0] // scale)
    error = (found["image"] - expect["image"]).square().mean().sqrt().item()
    assert error < 0.006  # 44 dB, smooth images; 0 where the whole of it is decoded
    assert (error == 0) == (scale == 1)
    assert torch.equal(found["fxfycxcy"], expect["fxfycxcy"])


def test_windows_into_images_with_a_margin(scene):
    # 22×29 with a margin of a quarter is 28×36: the window at (5, 3) of it shows what is there
    corners = np.array([[0.0, 0.0], [0.99, 0.99], [5.5 / 7, 3.2 / 8]])
    whole = load_views(scene, [2, 2, 2], (28, 36), patch_size=1)
    found = load_views(scene, [2, 2, 2], (22, 29), patch_size=1, windows=Windows(0.25, corners))
    for i, (top, left) in enumerate([(0, 0), (6, 7), (5, 3)]):
        assert torch.equal(found["image"][i], whole["image"][i, :, top : top + 22, left : left + 29])
        expect = whole["fxfycxcy"][i] - torch.tensor([0, 0, left, top])
        np.testing.assert_allclose(found["fxfycxcy"][i], expect, rtol=1e-6)


def test_alpha_has_the_window_of_the_image(scene):
    view = scene.views[0]
    alpha = np.random.default_rng(0).integers(0, 256, (22, 29), dtype=np.uint8)
    Image.fromarray(np.dstack([np.zeros((22, 29, 3), np.uint8), alpha])).save(view.file_path)  # black where it is opaque
    windows = Windows(0.25, np.array([[0.99, 0.5]]))
    found = load_views(scene, [0], (16, 20), patch_size=4, alpha=True, windows=windows)
    np.testing.assert_allclose(found["image"][0, 1] * 255, 255 - found["alpha"][0].float(), atol=1.01)  # each is rounded
