"""Scene states on disk: whatever a file holds instead is one line."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config.errors import InputError
from model import LaCTLVSM, SceneState
from model.scene_state import FORMAT
from tests.support.networks import cameras, random_views, small_model

LACT = ("self_attention", "fast_weight", "mlp")
NO_CHANGE: dict[str, Tensor | None] = {}


@pytest.fixture(scope="module")
def model() -> LaCTLVSM:
    return small_model(*LACT)


@pytest.fixture(scope="module")
def parts(model) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a good state, of one scene and two views."""
    state = model.reconstruct(**random_views(1, 2, 8, 12))
    tensors = {f"layers.{i}.{name}": x for i, layer in enumerate(state.layers) for name, x in layer.items()}
    about = {"format": FORMAT, "model": state.model, "image_size": "[8, 12]"}
    return {**tensors, "fxfycxcy": state.fxfycxcy, "c2w": state.c2w}, about


def load(parts, folder, tensors=NO_CHANGE, **about: str | None) -> SceneState:
    """Load a state with changes; None removes what it is given for."""
    changed = {name: x for name, x in {**parts[0], **tensors}.items() if x is not None}
    metadata = {name: text for name, text in {**parts[1], **about}.items() if text is not None}
    save_file({name: x.contiguous() for name, x in changed.items()}, folder / "s.safetensors", metadata)
    return SceneState.load(folder / "s.safetensors")


def test_a_state_without_a_checksum_is_read(parts, model, tmp_path):
    assert model.render(load(parts, tmp_path), *cameras(random_views(1, 1, 8, 12)), (8, 12)).isfinite().all()


def test_the_move_from_the_capture_is_kept(parts, tmp_path):
    moved = torch.tensor([[0.0, -3, 0, 1], [3, 0, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1]], dtype=torch.float64)[None]
    load(parts, tmp_path, {"from_capture": moved}).save(tmp_path / "again.safetensors")
    found = SceneState.load(tmp_path / "again.safetensors").from_capture
    assert found is not None
    assert found.equal(moved)


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        ({"fxfycxcy": None}, {}, "fxfycxcy: is missing; wanted a scene state written by --save_state"),
        ({"c2w": None}, {}, "c2w: is missing"),
        ({"c2w": torch.eye(4)}, {}, r"fxfycxcy and c2w: are \(1, 2, 4\) and \(4, 4\); wanted \(b, v, 4\) and \(b, v, 4, 4\)"),
        ({"fxfycxcy": torch.ones(1, 0, 4), "c2w": torch.ones(1, 0, 4, 4)}, {}, r"fxfycxcy and c2w: are \(1, 0, 4\)"),
        ({"fxfycxcy": torch.zeros(1, 2, 4)}, {}, "fxfycxcy: holds a focal length that is not above 0"),
        ({"c2w": torch.full((1, 2, 4, 4), torch.nan)}, {}, "c2w: holds 32 numbers that are not finite"),
        ({"layers.1.w0": torch.ones(2, 24, 36, dtype=torch.int8)}, {}, "layers.1.w0: is int8"),
        ({"layers.1.w0": torch.full((2, 24, 36), torch.inf)}, {}, "layers.1.w0: holds 1728 numbers that are not finite"),
        ({"focus": torch.ones(3)}, {}, r"focus: is \(3,\); wanted \(1, 3\)"),
        ({f"layers.0.w{i}": None for i in range(3)}, {}, "layers.0: is missing; wanted 1 layer, numbered from 0"),
        (
            {"layers.x.w0": torch.ones(1)},
            {},
            "layers.x.w0: is unknown; wanted fxfycxcy, c2w, focus, from_capture, layers.I.NAME and sums.I.NAME",
        ),
        ({"layers.00.w0": torch.ones(1)}, {}, "layers.00.w0: is unknown"),
        ({"sums.2.dw0": torch.ones(1)}, {}, "sums.2: is of no layer of 2"),
        (
            {"sums.0.dw0": torch.full((2, 24, 36), 1e300, dtype=torch.float64)},
            {},
            "sums.0.dw0: holds 1e.300, which overflows in float32",
        ),
        ({"sums.0.dw0": torch.full((2, 24, 36), torch.nan)}, {}, "sums.0.dw0: holds 1728 numbers that are not finite"),
        ({"more": torch.ones(1)}, {}, "more: is unknown"),
        ({}, {"image_size": None}, "image_size: is missing; wanted \\[height, width\\], 32768 pixels at most each"),
        ({}, {"image_size": "null"}, "image_size: is 'null'"),
        ({}, {"image_size": "[8, 12, 3]"}, "image_size: is"),
        ({}, {"image_size": "[8, true]"}, "image_size: is"),
        ({}, {"image_size": "[8, 1000000000]"}, "image_size: is"),
        ({}, {"image_size": "[" * 9000}, "image_size: is"),
        ({}, {"model": None}, "model: is missing"),
        ({}, {"format": None}, "format: is None"),
        ({"from_capture": torch.eye(4)}, {}, r"from_capture: is \(4, 4\); wanted \(1, 4, 4\)"),
        ({"from_capture": -torch.eye(4)[None]}, {}, "from_capture: is not a rotation times a scale"),
        ({"from_capture": torch.diag(torch.tensor([1.0, 1, 2, 1]))[None]}, {}, "from_capture: is not a rotation times a scale"),
        ({}, {"normalised": "yes"}, "normalised: is 'yes'; wanted true or false"),
    ],
)
def test_files_that_hold_something_else_are_refused(parts, tmp_path, tensors, about, message):
    with pytest.raises(InputError, match=rf"s.safetensors, {message}") as caught:
        load(parts, tmp_path, tensors, **about)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"layers.1.w{i}": None for i in range(3)}, "holds 1 layer; wanted 2, as this network writes"),
        ({"layers.2.w0": torch.ones(1)}, "holds 3 layers; wanted 2"),
        ({"layers.1.w1": None}, "holds {.*} for layer 1; wanted {.*}, as this network writes"),
        ({"layers.1.w3": torch.ones(1)}, "holds {.*'w3': .*} for layer 1"),
        ({"layers.0.w1": torch.ones(2, 24, 36)}, r"holds {.*'w1': \(2, 24, 36\).*} for layer 0; wanted {.*'w1': \(2, 36, 24\)"),
        ({"fxfycxcy": torch.ones(3, 2, 4), "c2w": torch.ones(3, 2, 4, 4)}, "holds 3 scenes; wanted 1"),
    ],
)
def test_states_that_other_networks_wrote_are_refused(parts, model, tmp_path, tensors, message):
    state = load(parts, tmp_path, tensors)
    with pytest.raises(InputError, match=rf"scene state: {message}"):
        model.render(state, *cameras(random_views(1, 1, 8, 12)), (8, 12))


@pytest.mark.parametrize("normalised", [True, False, None])
def test_whether_poses_are_normalised_is_kept(model, tmp_path, normalised):
    state = model.reconstruct(**random_views(1, 2, 8, 12))
    state.normalised = normalised
    state.save(tmp_path / "s.safetensors")
    assert SceneState.load(tmp_path / "s.safetensors").normalised is normalised


def test_a_state_that_is_not_finite_is_not_written(model, tmp_path):
    state = model.reconstruct(**random_views(1, 2, 8, 12))
    state.layers[1]["w1"][0, 0, 0] = torch.inf
    with pytest.raises(InputError, match=r"s\.safetensors, layers\.1\.w1: holds 1 number that is not finite"):
        state.save(tmp_path / "s.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", ["self_attention over the scene", "register_attention", "fast_weight by line"])
def test_states_of_every_kind_of_layer_have_the_expected_shapes(layer):
    model = small_model("mlp", layer, "self_attention")
    state = model.reconstruct(**random_views(2, 3, 8, 12))
    model.render(state, *cameras(random_views(2, 1, 8, 12)), (8, 12))
    first = state.layers[0]
    name = next(iter(first))
    first[name] = first[name][:, :-1]
    with pytest.raises(InputError, match="for layer 0; wanted"):
        model.render(state, *cameras(random_views(2, 1, 8, 12)), (8, 12))
