"""Pool of procedural scenes: its content, when it changes, and training from it."""

import collections
import dataclasses
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from config.recipe import TrainingRecipe
from data.sampler import numbers_of
from data.sources import open_source
from data.synthetic import pool as pool_module
from data.synthetic import synthetic_batch
from data.synthetic.pool import ScenePool
from data.synthetic_source import PoolSource
from tests.support.training_run import assert_same, final, run_straight_and_resumed, work_in

SIZE, VIEWS = (8, 12), 3
RECIPE = TrainingRecipe(
    data_path="synthetic:objects", image_size=SIZE, num_all_views=VIEWS, num_input_views=1, num_target_views=1, bs_per_gpu=2,
    pool=4, pool_reuse=2, seed=5,
)  # fmt: skip
CPU = torch.device("cpu")
# A training run of six steps of two scenes: the window of two scenes moves every other step.
RUN = {"data_path": "synthetic:objects", "pool": 2, "pool_reuse": 2}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(pool_module, "GROUP", 2)


@pytest.fixture
def make():
    """Return a function that makes a pool, closed after the test."""
    pools = []

    def made(scenes: int = 4, kind: str = "objects", **options) -> ScenePool:
        pools.append(ScenePool(kind, 5, scenes, VIEWS, SIZE, CPU, **options))
        return pools[-1]

    yield made
    for pool in pools:
        pool.close()
    assert not any(thread.name == "scene pool" for thread in threading.enumerate())


def everything(pool: ScenePool, first: int) -> dict[str, Tensor]:
    """Return all views of the window that starts at scene `first`."""
    return pool.draw(range(first, first + pool.scenes), np.tile(np.arange(VIEWS), (pool.scenes, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["objects", "scenes"])
def test_window_holds_the_scenes_of_the_generator(make, kind):
    pool = make(kind=kind)
    for scene, first in ((0, 0), (3, 2), (8, 8)):
        assert pool.move(scene) == first
        found = everything(pool, first)
        wanted = synthetic_batch(kind, 5, range(first, first + 4), VIEWS, SIZE)
        torch.testing.assert_close(found["c2w"], wanted["c2w"], rtol=0, atol=0)
        torch.testing.assert_close(found["fxfycxcy"], wanted["fxfycxcy"], rtol=0, atol=0)
        # Half a level of 255, plus the different rounding of another batch.
        assert (found["image"] - wanted["image"]).abs().max() < 0.51 / 255


def test_window_is_the_same_wherever_the_pool_began(make):
    early, late = make(), make()
    for scene in range(0, 13, 2):
        early.move(scene)
    late.move(12)
    assert all(torch.equal(x, y) for x, y in zip(everything(early, 12).values(), everything(late, 12).values(), strict=True))


def test_window_is_the_same_on_every_device(make, monkeypatch):
    # Without a GPU: nothing that locates the window may access the device.
    monkeypatch.undo()
    monkeypatch.setattr(ScenePool, "_make", lambda *_: None)
    pools = [ScenePool("objects", 5, 100, VIEWS, SIZE, torch.device(name)) for name in ("cpu", "meta")]
    try:
        assert [(pool.group, pool.scenes, pool.move(200)) for pool in pools] == [(64, 128, 192)] * 2
    finally:
        for pool in pools:
            pool.close()


def test_views_are_drawn_as_asked(make):
    pool = make()
    pool.move(0)
    whole, some = everything(pool, 0), pool.draw([3, 1], np.array([[2, 0], [1, 1]]))
    for name, x in some.items():
        assert torch.equal(x, torch.stack([whole[name][3][[2, 0]], whole[name][1][[1, 1]]]))


def test_processes_share_the_row_of_scenes(make):
    whole = make(scenes=8)
    whole.move(0)
    for rank in range(2):
        part = make(share=(rank, 2))
        part.move(0)
        assert torch.equal(everything(part, 0)["c2w"], everything(whole, 0)["c2w"][rank::2])


@pytest.mark.slow
def test_other_processes_describe_the_same(make):
    alone, helped = make(), make(processes=1)
    alone.move(0), helped.move(0)
    assert all(torch.equal(x, y) for x, y in zip(everything(alone, 0).values(), everything(helped, 0).values(), strict=True))


def test_scenes_are_made_ahead_but_no_further_than_there_is_room(make, monkeypatch):
    made = []
    describe = pool_module.describe
    monkeypatch.setattr(pool_module, "describe", lambda *words: made.append(words[2]) or describe(*words))
    pool = make()
    for scene, most in ((0, 8), (2, 10)):
        pool.move(scene)
        with pool._changed:
            assert pool._changed.wait_for(lambda most=most: pool._made * pool.group == most, timeout=20)
        assert max(made) == most - 1
    assert made == sorted(set(made))


def test_what_goes_wrong_is_raised_where_scenes_are_waited_for(make, monkeypatch):
    pool = make()
    pool.move(0)
    monkeypatch.setattr(pool_module, "render", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(MemoryError, match="no room"):
        pool.move(40)


def source(recipe: TrainingRecipe = RECIPE, **options) -> PoolSource:
    opened = open_source("synthetic:objects", recipe, 4, CPU, data_share=options.pop("data_share", (0, 1)), **options)
    assert isinstance(opened, PoolSource)
    return opened


def test_a_scene_is_drawn_as_often_as_the_recipe_says(monkeypatch):
    counts = collections.Counter()
    monkeypatch.setattr(ScenePool, "move", lambda pool, scene: scene // pool.group * pool.group)
    monkeypatch.setattr(ScenePool, "draw", lambda pool, scenes, views: counts.update(scenes) or {})
    drawn = source(dataclasses.replace(RECIPE, pool_reuse=7))
    for step in range(2000):
        drawn.batch(numbers_of(step, 0, 0, 1, drawn.recipe))
    settled = [counts[scene] for scene in range(50, 500)]  # after the first window, before the last
    assert np.mean(settled) == pytest.approx(7, abs=0.3)
    assert max(counts) < 2000 * 2 / 7 + 4  # none beyond the window


def test_samples_do_not_depend_on_micro_steps():
    with_two = dataclasses.replace(RECIPE, bs_per_gpu=1, grad_accum=2)
    one, other = source(), source(with_two)
    try:
        for step in range(8):
            whole = one.batch(numbers_of(step, 0, 0, 1, RECIPE))
            parts = [other.batch(numbers_of(step, i, 0, 1, with_two)) for i in range(2)]
            assert all(torch.equal(whole[name], torch.cat([part[name] for part in parts])) for name in whole)
    finally:
        one.close(), other.close()


def test_poses_are_normalised_over_the_views_of_all_processes():
    recipe = dataclasses.replace(RECIPE, num_input_views=2, num_target_views=1, scene_pose_normalize=True)
    whole, parts = source(recipe), [source(recipe, views=own) for own in ([0, 2], [1])]
    try:
        expected = whole.batch(range(2))
        assert expected["c2w"][..., :3, 3].abs().amax((1, 2)).tolist() == pytest.approx([1, 1])
        for part, own in zip(parts, ([0, 2], [1]), strict=True):
            assert all(torch.equal(x, expected[name][:, own]) for name, x in part.batch(range(2)).items())
    finally:
        for opened in (whole, *parts):
            opened.close()


@pytest.mark.slow
def test_training_stopped_and_resumed_is_bitwise_equal(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    run_straight_and_resumed(monkeypatch, **RUN)
    assert_same(final("straight"), final("resumed"))
    assert not any(thread.name == "scene pool" for thread in threading.enumerate())
