"""Context groups in one process: the views that each process takes, a process alone, and group sizes that are refused."""

import pytest
import torch

import inference
import train
from config.errors import InputError
from config.recipe import read_recipe
from data.sources import open_source
from model.parallel.context import ContextGroup, join_context, own_inputs, own_targets
from model.parallel.processes import start_processes
from model.parallel.share import ViewShare, share_views
from tests.support.context_run import scene
from tests.support.networks import small_model
from tests.support.training_run import arguments, work_in


def test_process_alone_is_a_context_of_one():
    context = join_context(1)
    assert context == ContextGroup(0, 1, "")
    assert context.gather("rows") == ["rows"]
    with pytest.raises(OSError, match="no such photo"), context.together():
        raise OSError("no such photo")


def test_stream_of_a_process_alone_passes_item_by_item():
    made = []
    passed = join_context(1).in_rank_order(made.append(i) or i for i in range(3))
    assert made == []
    assert next(iter(passed)) == 0
    assert made == [0]


def test_context_of_one_changes_nothing_in_the_network():
    model, inputs = small_model("self_attention", "fast_weight"), scene(2, 0)
    wanted = model.reconstruct(**inputs)
    model.context = join_context(1)
    found = model.reconstruct(**inputs)
    for one, other in zip(wanted.layers, found.layers, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="wanted at least one view"):
        model.reconstruct(**{name: views[:, :0] for name, views in inputs.items()})


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_shares_are_the_whole_and_even(size):
    for inputs in range(12):
        for targets in range(12):
            shares = [(own_inputs(inputs, rank, size), own_targets(targets, rank, size)) for rank in range(size)]
            assert [i for own, _ in shares for i in own] == list(range(inputs))
            assert [i for _, own in shares for i in own] == list(range(targets))
            for counts in ([len(own) for own, _ in shares], [len(own) for _, own in shares]):
                assert max(counts) - min(counts) <= 1
            if (inputs + targets) % size == 0:
                assert {len(one) + len(other) for one, other in shares} == {(inputs + targets) // size}


@pytest.mark.parametrize("data_path", ["scenes/test_data_path.json", "synthetic:objects", "synthetic:objects:2"])
def test_shares_of_a_batch_put_together_are_the_batch(tmp_path, monkeypatch, data_path):
    work_in(tmp_path, monkeypatch)
    views = {"num_all_views": 5, "num_input_views": 3, "num_target_views": 3}
    recipe = read_recipe(arguments("share", data_path=data_path, **views, scene_pose_normalize=True, context_parallel=3))

    whole = train.split(open_source(data_path, recipe, 4, torch.device("cpu")).batch([3, 8]), 3, 3)
    parts = []
    for rank in range(3):
        share = share_views(recipe, ContextGroup(rank, 3, "none"))
        batch = open_source(data_path, recipe, 4, torch.device("cpu"), share.views).batch([3, 8])
        parts.append(train.split(batch, len(share.inputs), len(share.targets)))
    for wanted, found in zip(whole, zip(*parts, strict=True), strict=True):
        for key, value in wanted.items():
            assert torch.equal(torch.cat([part[key] for part in found], dim=1), value)


def test_uneven_shares_weigh_what_they_hold(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    recipe = read_recipe(arguments("share", num_all_views=8, num_input_views=4, num_target_views=4, context_parallel=3))
    shares = [share_views(recipe, ContextGroup(rank, 3, "none")) for rank in range(3)]
    # The mean over 3 processes of their weighted means over 1, 1 and 2 targets is the mean over all 4.
    assert [share.weight for share in shares] == [3 / 4, 3 / 4, 6 / 4]
    assert [share.views for share in shares] == [[0, 1, 4], [2, 5], [3, 6, 7]]
    # Of 2 inputs drawn in a step, which are the first, the first process holds both.
    assert [share.count_inputs(2) for share in shares] == [2, 0, 0]
    assert share_views(recipe, ContextGroup(0, 1, "")) == ViewShare(range(4), range(4), None, 1.0)


def test_processes_that_cannot_be_divided_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="--context_parallel: is 3 with 4 processes; wanted a divisor of their number"):
        start_processes("cpu", 3)


@pytest.mark.parametrize("flags", [["--context_parallel", "2"], ["--context_parallel", "0"]])
def test_inference_refuses_contexts_that_do_not_fit(flags, tmp_path, capsys):
    assert inference.main(["--load", "w", "--data_path", "d", *flags]) == 2
    wanted = {"2": "is 2 with 1 processes; wanted a divisor of their number", "0": "is 0; wanted 1 or more"}[flags[1]]
    assert capsys.readouterr().err == f"inference.py: --context_parallel: {wanted}\n"
