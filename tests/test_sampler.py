"""Training samples: which scenes and views a step sees, and reading them ahead."""

import dataclasses
import itertools
import json
import re
import threading

import numpy as np
import pytest
import torch

from config.errors import InputError
from config.recipe import TrainingRecipe
from data.folder_source import FolderSource
from data.poses import normalise_poses
from data.sampler import inputs_of_step, load_ahead, numbers_of, scene_of, views_of_sample
from data.sources import open_source
from tests.support.scenes import write_random_data_path, write_random_scene

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(
    data_path="", image_size=(8, 12), num_all_views=5, num_input_views=2, num_target_views=3, bs_per_gpu=2, workers=2, seed=7
)


def source(folder, scenes: int = 3, n: int = 9, **changes) -> FolderSource:
    path = folder / "test_data_path.json"
    if not path.exists():
        write_random_data_path(folder, scenes, n, size=(10, 15))
    return FolderSource(str(path), dataclasses.replace(RECIPE, **changes), patch_size=4)


def views_in(found: FolderSource, batch: dict, sample: int) -> tuple[int, list[int]]:
    """Return the scene and the views that a sample shows, recognised by their poses."""
    for i in range(len(found.dataset)):
        poses = np.stack([view.c2w for view in found.dataset[i].views])
        distance = np.abs(poses[None] - batch["c2w"][sample].numpy()[:, None]).max((-2, -1))
        if (distance.min(1) < 1e-5).all():
            return i, distance.argmin(1).tolist()
    raise AssertionError("a sample of no scene")


@pytest.mark.parametrize("scenes", [1, 2, 7])
def test_every_scene_once_an_epoch_in_a_new_order(scenes):
    epochs = [[scene_of(number, scenes, 3) for number in range(e * scenes, (e + 1) * scenes)] for e in range(6)]
    assert all(sorted(epoch) == list(range(scenes)) for epoch in epochs)
    if scenes == 7:
        assert len({tuple(epoch) for epoch in epochs}) == 6
        assert [scene_of(number, scenes, 4) for number in range(7)] != epochs[0]


def test_a_step_shares_its_numbers_among_ranks_and_micro_steps_without_gap():
    recipe = dataclasses.replace(RECIPE, bs_per_gpu=3, grad_accum=2)
    for step in (0, 5):
        parts = [numbers_of(step, m, rank, 4, recipe) for rank in range(4) for m in range(2)]
        assert sorted(itertools.chain(*parts)) == list(range(step * 24, (step + 1) * 24))


def test_the_number_of_inputs_is_drawn_once_a_step_from_the_whole_range():
    recipe = dataclasses.replace(RECIPE, min_input_views=3, num_input_views=6)
    drawn = [inputs_of_step(step, recipe) for step in range(400)]
    assert drawn == [inputs_of_step(step, dataclasses.replace(recipe, bs_per_gpu=9, grad_accum=4)) for step in range(400)]
    assert all(70 < drawn.count(number) < 130 for number in (3, 4, 5, 6))  # 100 each, give or take 8.7
    assert {inputs_of_step(step, RECIPE) for step in range(20)} == {2}


def test_another_split_of_the_same_batch_has_the_same_numbers():
    def numbers(step: int, ranks: int, grad_accum: int, bs_per_gpu: int) -> list[int]:
        recipe = dataclasses.replace(RECIPE, bs_per_gpu=bs_per_gpu, grad_accum=grad_accum)
        return sorted(n for r in range(ranks) for m in range(grad_accum) for n in numbers_of(step, m, r, ranks, recipe))

    assert numbers(4, 1, 1, 12) == numbers(4, 2, 3, 2) == numbers(4, 3, 1, 4)


def test_a_sample_is_a_function_of_seed_and_number(tmp_path):
    one, other = source(tmp_path), source(tmp_path)
    one.batch([0, 1, 2, 3])
    first, again = one.batch([11, 4]), other.batch([4, 11])
    assert all(torch.equal(first[key].flip(0), again[key]) for key in ("image", "fxfycxcy", "c2w"))
    reseeded = source(tmp_path, seed=8).batch([11, 4])
    assert not torch.equal(first["c2w"], reseeded["c2w"])


def test_batch_shapes_and_distinct_views(tmp_path):
    found = source(tmp_path)
    batch = found.batch(range(6))
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "image": (6, 5, 3, 8, 12),
        "fxfycxcy": (6, 5, 4),
        "c2w": (6, 5, 4, 4),
    }
    shown = [views_in(found, batch, i) for i in range(6)]
    assert [scene for scene, _ in shown] == [scene_of(i, 3, 7) for i in range(6)]
    assert all(len(set(views)) == 5 for _, views in shown)
    assert len({tuple(views) for _, views in shown}) == 6


def test_every_view_is_input_and_target_some_time(tmp_path):
    found = source(tmp_path, scenes=1, n=7)
    shown = [views_in(found, found.batch([number]), 0)[1] for number in range(40)]
    assert {view for views in shown for view in views[:2]} == set(range(7))
    assert {view for views in shown for view in views[-3:]} == set(range(7))


@pytest.mark.parametrize(("all_views", "expected"), [(5, 5), (4, 4), (3, 3), (9, 5)])
def test_inputs_and_targets_share_views_where_there_are_too_few(all_views, expected):
    assert views_of_sample(dataclasses.replace(RECIPE, num_all_views=all_views)) == expected


def test_window_of_consecutive_frames(tmp_path):
    found = source(tmp_path, scenes=1, n=20, frame_window=6)
    shown = [views_in(found, found.batch([number]), 0)[1] for number in range(60)]
    assert all(max(views) - min(views) <= 5 for views in shown)
    assert max(max(views) - min(views) for views in shown) == 5
    assert {min(views) for views in shown} >= {0, 14}  # windows reach both ends


def test_window_longer_than_the_scene_is_the_scene(tmp_path):
    found = source(tmp_path, scenes=1, n=6, frame_window=100)
    assert {view for number in range(30) for view in views_in(found, found.batch([number]), 0)[1]} == set(range(6))


def test_poses_are_normalised_over_inputs_and_targets(tmp_path):
    plain, normalised = source(tmp_path).batch([3, 4]), source(tmp_path, scene_pose_normalize=True).batch([3, 4])
    torch.testing.assert_close(normalised["c2w"], normalise_poses(plain["c2w"]))
    assert normalised["c2w"][..., :3, 3].abs().amax((1, 2)).tolist() == pytest.approx([1, 1])


def test_georeferenced_poses_keep_their_digits(tmp_path):
    """Metres of a map are beyond float32 to the centimetre: poses are normalised before they are rounded."""
    near = source(tmp_path / "near", scenes=1, scene_pose_normalize=True).batch([3, 4])
    source(tmp_path / "far", scenes=1)
    path = tmp_path / "far" / "scene_0" / "opencv_cameras.json"
    views = json.loads(path.read_text())
    for view in views:
        w2c = np.array(view["w2c"])
        w2c[:3, 3] -= w2c[:3, :3] @ (691_300.0, 5_335_900.0, 520.0)  # east, north and height of a place in Munich
        view["w2c"] = w2c.tolist()
    path.write_text(json.dumps(views))
    far = source(tmp_path / "far", scenes=1, scene_pose_normalize=True).batch([3, 4])
    torch.testing.assert_close(far["c2w"], near["c2w"], rtol=0, atol=1e-6)


def test_held_out_views_are_fixed_and_distinct(tmp_path):
    found = source(tmp_path, frame_window=6)
    assert found.count_validation_scenes() == 3
    first, again = found.validation_batch(1), found.validation_batch(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    scene, views = views_in(found, first, 0)
    assert scene == 1
    assert len(set(views)) == 5
    assert set(views) <= set(range(1, 7))  # the middle six of nine frames
    assert first["image"].shape == (1, 5, 3, 8, 12)


def test_scene_with_too_few_views_is_named(tmp_path):
    found = source(tmp_path, scenes=1, n=4)
    with pytest.raises(
        InputError, match=r"^sample 2, scene .*scene_0/opencv_cameras.json, views: are 4; wanted 5 or more, for num_input_views and"
    ):
        found.batch([2])


def test_missing_image_names_scene_and_file(tmp_path):
    found = source(tmp_path, scenes=1)
    for path in (tmp_path / "scene_0" / "images").iterdir():
        path.unlink()
    with pytest.raises(
        InputError, match=r"scene .*scene_0/opencv_cameras.json: cannot be read \(.*/images/0000\d.png: is not there"
    ):
        found.batch([0])


def test_broken_samples_are_replaced_up_to_a_cap(tmp_path, capsys):
    found = source(tmp_path, skip_broken=2)
    (tmp_path / "scene_1" / "opencv_cameras.json").write_text("{")
    broken = [number for number in range(30) if scene_of(number, 3, 7) == 1]
    batch = found.batch(broken[:1])
    others = [np.stack([view.c2w for view in found.dataset[i].views]).astype(np.float32) for i in (0, 2)]
    assert any(all((pose == poses).all((1, 2)).any() for pose in batch["c2w"][0].numpy()) for poses in others)
    assert found.broken >= 1
    assert f"skipped: sample {broken[0]}, scene {found.dataset.scene_paths[1]}" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"skip_broken allows 2 broken samples, and this is number 3"):
        # One after another: threads would count on while the first error is on its way.
        list(map(found.batch, ([number] for number in broken[1:])))


def test_suspicious_cameras_are_warned_of_once(tmp_path, capsys):
    found = source(tmp_path, scenes=2)
    for json_path in found.dataset.scene_paths[:1]:
        views = json.loads(json_path.read_text())
        json_path.write_text(json.dumps([{**view, "fy": 3 * view["fx"]} for view in views]))
    found.batch(range(12))
    found.validation_batch(0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {json_path}, view 0: has focal lengths ")
    assert line.endswith("; wanted nearly square pixels (and 8 more, which check_scenes.py lists)")


def test_a_fault_of_the_program_is_no_broken_sample(tmp_path, monkeypatch):
    found = source(tmp_path, skip_broken=9)
    monkeypatch.setattr(found.dataset, "load", lambda *_, **__: [].index(3))
    with pytest.raises(ValueError, match="3 is not in list"):
        found.batch([0])
    assert found.broken == 0


def test_held_out_scene_with_too_few_views_is_named(tmp_path):
    message = r"scene_0/opencv_cameras.json, views: are 4; wanted 5 \(2 inputs, 3 targets\): ask for fewer"
    with pytest.raises(InputError, match=message):
        source(tmp_path, scenes=1, n=4).validation_batch(0)


class Counting:
    """A source that counts its calls and waits for permission."""

    def __init__(self, ahead: int, allowed: int = 1000, fail_at: int | None = None) -> None:
        self.asked, self.fail_at, self.ahead, self.gate = [], fail_at, ahead, threading.Semaphore(allowed)

    def batch(self, numbers):
        assert self.gate.acquire(timeout=10)
        self.asked.append(tuple(numbers))
        if numbers[0] == self.fail_at:
            raise InputError(f"sample {self.fail_at}", "is broken", "a whole one")
        return {"image": torch.tensor(numbers)}


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_come_in_order(ahead):
    batches = load_ahead(Counting(ahead), [[i, i + 1] for i in range(7)], CPU)
    assert [batch["image"].tolist() for batch in batches] == [[i, i + 1] for i in range(7)]


def test_next_batches_are_made_while_one_is_in_use():
    counting = Counting(2)
    batches = load_ahead(counting, ([i] for i in itertools.count()), CPU)
    next(batches)
    for _ in range(200):
        if len(counting.asked) == 3:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert sorted(counting.asked) == [(0,), (1,), (2,)]  # and no more than two ahead
    batches.close()


@pytest.mark.parametrize("ahead", [0, 2])
def test_error_of_a_thread_is_raised_at_its_turn(ahead):
    batches = load_ahead(Counting(ahead, fail_at=2), [[i] for i in range(5)], CPU)
    assert [next(batches)["image"].item() for _ in range(2)] == [0, 1]
    with pytest.raises(InputError, match="sample 2: is broken"):
        next(batches)


def test_synthetic_samples_are_a_function_of_seed_and_number():
    found = open_source("synthetic:objects", RECIPE, 4, CPU)
    one, other = found.batch([5, 9]), found.batch([9])
    assert {key: tuple(value.shape) for key, value in one.items()} == {
        "image": (2, 5, 3, 8, 12),
        "fxfycxcy": (2, 5, 4),
        "c2w": (2, 5, 4, 4),
    }
    torch.testing.assert_close(one["image"][1:], other["image"])
    assert torch.equal(one["c2w"][1:], other["c2w"])


def test_synthetic_set_of_n_scenes_shows_the_same_views_in_other_orders():
    found = open_source("synthetic:objects:2", RECIPE, 4, CPU)
    poses = [found.batch([number])["c2w"][0] for number in range(6)]
    sets = {tuple(sorted(map(tuple, pose.flatten(1).tolist()))) for pose in poses}
    assert len(sets) == 2
    assert len({tuple(pose.flatten().tolist()) for pose in poses}) > 2
    assert found.count_validation_scenes() == 2
    assert tuple(sorted(map(tuple, found.validation_batch(0)["c2w"][0].flatten(1).tolist()))) in sets


def test_endless_synthetic_data_holds_other_scenes_out():
    found = open_source("synthetic:objects", RECIPE, 4, CPU)
    assert found.count_validation_scenes() == 8
    assert not torch.equal(found.validation_batch(0)["c2w"].sum((0, 1)), found.batch([0])["c2w"].sum((0, 1)))


@pytest.mark.parametrize("name", ["", "cats", "objects:0", "objects:-1", "objects:x"])
def test_unknown_synthetic_data(name):
    with pytest.raises(
        InputError, match=r"^synthetic:.*: is not synthetic data; wanted synthetic:objects or synthetic:scenes, with :N at the end"
    ):
        open_source(f"synthetic:{name}", RECIPE, 4, CPU)


def test_held_out_seeds_are_not_for_training():
    with pytest.raises(InputError, match=r"^--seed: is 1000000; wanted one below 1000000 for synthetic:objects"):
        open_source("synthetic:objects", dataclasses.replace(RECIPE, seed=1_000_000), 4, CPU)


def test_one_scene_stands_for_itself(tmp_path):
    path = write_random_scene(tmp_path / "alone", n=6, size=(10, 15))
    assert open_source(str(path), RECIPE, 4, CPU).count_validation_scenes() == 1


@pytest.mark.parametrize("source", ["synthetic:objects", "scenes.json"])
def test_a_batch_that_no_machine_holds_is_refused_before_its_samples_are_computed(source):
    recipe = dataclasses.replace(RECIPE, bs_per_gpu=2_000_000_000)
    with pytest.raises(InputError, match=r"^bs_per_gpu: is 2000000000, with \d+ MB of images on a machine with \d+; wanted fewer"):
        open_source(source, recipe, 4, CPU)


def test_random_crops_are_a_function_of_the_sample(tmp_path):
    found, centre = source(tmp_path, crop_margin=0.25), source(tmp_path)
    batch = found.batch([4, 5])
    again = source(tmp_path, crop_margin=0.25).batch([5, 4])
    assert all(torch.equal(batch[key], again[key].flip(0)) for key in batch)
    own = FolderSource(str(tmp_path / "test_data_path.json"), found.recipe, patch_size=4, views=[3, 1])
    assert all(torch.equal(own.batch([4, 5])[key], batch[key][:, [3, 1]]) for key in batch)
    # 8×12 windows of 10×15: focal lengths are those of 10×15, principal points are moved by whole pixels, not all alike
    fxfycxcy, expect = batch["fxfycxcy"].double(), centre.batch([4, 5])["fxfycxcy"].double()
    np.testing.assert_allclose(fxfycxcy[..., :2], expect[..., :2] * 1.25, rtol=1e-6)
    moved = (fxfycxcy[..., 2:] - expect[..., 2:] * 1.25).reshape(-1, 2)
    np.testing.assert_allclose(moved - moved[0], (moved - moved[0]).round(), atol=1e-4)
    assert len({tuple(row) for row in moved.round(decimals=2).tolist()}) > 5
    validation = found.validation_batch(0)["fxfycxcy"].double() - centre.validation_batch(0)["fxfycxcy"].double() * 1.25
    np.testing.assert_allclose(validation[..., 2:] - validation[0, 0, 2:], 0, atol=1e-4)  # the centre, of all views
    large = dataclasses.replace(found.recipe, crop_margin=0.0, image_size=(10, 15))
    whole = FolderSource(str(tmp_path / "test_data_path.json"), large, patch_size=1).validation_batch(0)["image"]
    assert torch.equal(found.validation_batch(0)["image"], whole[..., 1:9, 2:14])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"crop_margin": 0.25}, None),
        ({"crop_margin": 0.5}, "10×15 (h×w), which are enlarged to 12×18 with crop_margin"),
        ({"image_size": (8, 16)}, "10×15 (h×w), which are enlarged to 8×16"),
    ],
)
def test_images_that_are_enlarged_are_told_once(tmp_path, capsys, changes, found):
    source(tmp_path, **changes).batch(range(6))
    lines = [line for line in capsys.readouterr().err.splitlines() if "enlarged" in line]
    assert len(lines) == (found is not None)
    if found:
        assert re.fullmatch(
            rf"warning: .*/scene_\d/opencv_cameras.json: has images of {re.escape(found)}; wanted larger ones", lines[0]
        )
