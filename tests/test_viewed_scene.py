"""Scenes of the viewer whose inputs change a little."""

import pytest

from model.viewer.viewed_scene import Abandoned, few_differ
from tests.support.networks import small_model
from tests.support.viewers import ROUNDING, assert_same_scene, distance, example_scenes, others_of, photos_of


@pytest.mark.parametrize(
    ("before", "after", "few"),
    [
        ([0, 1, 2], [0, 1, 2], False),  # nothing changes
        ([0, 1, 2], [2, 0, 1], False),
        ([0, 1, 2], [0, 1], True),
        ([0, 1], [0], False),  # the one that stays takes no longer
        ([0, 1], [0, 1, 2, 3], True),
        ([0], [0, 1], True),
        ([0, 1, 2, 3], [0, 1, 2, 4], True),
        ([0, 1, 2, 3], [0, 1, 4, 5], False),
        ([0, 1], [2, 3, 4], False),
    ],
)
def test_few_inputs_differ_where_they_take_less_time_than_all(before, after, few):
    assert few_differ(before, after) is few


@pytest.mark.parametrize("scenes", [False, True])
def test_a_quick_change_forgets_what_leaves_then_extends_by_what_is_new(scenes):
    model = small_model("self_attention", "fast_weight", "mlp")
    scene = next(iter(example_scenes(model, scenes).values()))()
    first = scene.reconstruct(scene.inputs, lambda done: None)
    scene.use(scene.inputs, first)
    inputs, new = scene.inputs, others_of(scene)[:2]
    fewer = model.forget(first, *photos_of(scene, [inputs[1]]))
    cases = {
        "out": (inputs[:1] + inputs[2:], fewer),
        "in": (sorted([*inputs, *new]), model.extend(first, *photos_of(scene, new))),
        "both": ([inputs[0], new[1], *inputs[2:]], model.extend(fewer, *photos_of(scene, new[1:]))),
    }
    for wanted, state in cases.values():
        found = scene.quick_change(wanted, lambda: None)
        assert_same_scene(found, state)
        assert found is not None
        assert distance(found, model.reconstruct(*photos_of(scene, wanted))) > 10 * ROUNDING
        assert found.normalised is scenes
        assert (found.from_capture is None) is not scenes
    assert scene.state is first
    assert scene.quick_change(inputs[:2], lambda: None) is None
    for wanted in cases:
        with pytest.raises(Abandoned):
            scene.quick_change(cases[wanted][0], _abandon)


def _abandon() -> None:
    raise Abandoned
