"""Scene states that grow and shrink: views added, taken out, and read as a stream."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from config.errors import InputError
from model import LaCTLVSM, PosedImages, SceneState
from model.layers.address import focus_of
from tests.support.networks import cameras, random_views, relative_error, small_model

NETWORKS = {
    "LaCT": ("self_attention", "fast_weight", "mlp"),
    "addressed": ("self_attention", "fast_weight by foot", "mlp"),
    "w1 alone": ("self_attention", "fast_weight by line", "mlp"),
    "registers": ("self_attention", "register_attention", "mlp"),
    "full attention": ("self_attention over the scene", "mlp"),
    "mixed": ("fast_weight", "mlp", "self_attention over the scene", "register_attention"),
}
SIZE = (8, 12)
# Sums in another order, through two blocks: float32 rounding.
ROUNDING = 1e-4

Views = dict[str, Tensor]


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> LaCTLVSM:
    return small_model(*NETWORKS[request.param])


@pytest.fixture
def lact() -> LaCTLVSM:
    return small_model(*NETWORKS["LaCT"])


def of(views: Views, chosen: slice | list[int]) -> Views:
    return {name: x[:, chosen] for name, x in views.items()}


def tensors_of(state: SceneState) -> dict[str, Tensor]:
    """Return all tensors of a state, by name."""
    parts = {"layers": state.layers, "sums": state.sums or []}
    found = {
        f"{part}.{i}.{name}": x for part, layers in parts.items() for i, layer in enumerate(layers) for name, x in layer.items()
    }
    return found | {"fxfycxcy": state.fxfycxcy, "c2w": state.c2w} | ({} if state.focus is None else {"focus": state.focus})


def assert_equal(one: SceneState, other: SceneState) -> None:
    found, wanted = tensors_of(one), tensors_of(other)
    assert found.keys() == wanted.keys()
    assert [name for name in found if not torch.equal(found[name], wanted[name])] == []


def assert_close(one: SceneState, other: SceneState, layers: range | None = None) -> None:
    """Compare the layers, or some of them, and what is rendered if it is all."""
    for i in range(len(other.layers)) if layers is None else layers:
        for name, x in other.layers[i].items():
            assert relative_error(one.layers[i][name], x) < ROUNDING, f"layer {i}, {name}"


def stream_of(views: Views) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the views of one scene, one by one."""
    return list(zip(views["image"][0], views["fxfycxcy"][0], views["c2w"][0], strict=True))


def test_keeping_sums_changes_nothing_else(model):
    views = random_views(2, 4, *SIZE)
    kept, plain = model.reconstruct(**views, keep_sums=True), model.reconstruct(**views)
    assert plain.sums is None
    assert_equal(SceneState(**{**vars(kept), "sums": None}), plain)


def test_a_stream_of_one_chunk_is_a_reconstruction(model):
    views = random_views(1, 5, *SIZE)
    whole = model.reconstruct(**views, keep_sums=True)
    assert_equal(model.reconstruct_stream(stream_of(views), chunk=5), whole)
    assert_equal(model.reconstruct_stream(stream_of(views), chunk=99), whole)


def test_order_and_grouping_within_a_chunk_change_nothing(model):
    views = random_views(1, 7, *SIZE)
    state = model.reconstruct(**of(views, [0, 1]), keep_sums=True)
    wanted = model.extend(state, **of(views, [2, 3, 4, 5, 6]))
    for order, chunk_views in (([2, 3, 4, 5, 6], 2), ([6, 3, 5, 2, 4], None), ([4, 5, 6, 3, 2], 1)):
        found = model.extend(state, **of(views, order), chunk_views=chunk_views)
        targets = cameras(random_views(1, 2, *SIZE, seed=9))
        assert relative_error(model.render(found, *targets, SIZE), model.render(wanted, *targets, SIZE)) < ROUNDING


def test_a_stream_is_the_same_as_views_added_one_chunk_at_a_time(model):
    views = random_views(1, 5, *SIZE)
    state = model.reconstruct(**of(views, [0, 1]), keep_sums=True)
    state = model.extend(model.extend(state, **of(views, [2, 3])), **of(views, [4]))
    assert_equal(model.reconstruct_stream(stream_of(views), chunk=2, first=2), state)
    grouped = PosedImages(views["image"][0], views["fxfycxcy"][0], views["c2w"][0])
    assert_equal(model.reconstruct_stream(grouped, chunk=2, first=2), state)
    assert_equal(model.reconstruct_stream(iter(stream_of(views)), chunk=2, first=2), state)


def test_added_views_read_what_is_there_once_they_have_written(lact):
    """The definition, by hand: the new views go through the layers, of which each first takes up their gradients."""
    views, layers = random_views(1, 5, *SIZE), [layer for block in lact.block_list for layer in block.layers]
    memories = []
    old, new = (lact.tokenise(v["fxfycxcy"], v["c2w"], SIZE, v["image"]) for v in (of(views, [0, 1, 2]), of(views, [3, 4])))
    wanted = []
    with torch.no_grad():
        for layer in layers:
            if layer not in lact.mixing_layers:
                old, new = layer(old), layer(new)
                continue
            memories = layer.write(old, None)
            old = layer.read(old, layer.finish(memories), False)
            wanted.append(layer.finish(layer.write(new, memories)))
            new = layer.read(new, wanted[-1], False)
    state = lact.extend(lact.reconstruct(**of(views, [0, 1, 2]), keep_sums=True), **of(views, [3, 4]))
    assert_close(state, SceneState(**{**vars(state), "layers": wanted}))
    exact = lact.reconstruct(**views)
    # The first layer is exact; later ones are not, since views 0 to 2 have not read what 3 and 4 wrote.
    assert_close(state, exact, range(1))
    assert relative_error(state.layers[1]["w1"], exact.layers[1]["w1"]) > 10 * ROUNDING


def test_what_two_halves_write_from_one_state_adds_up(model):
    views = random_views(1, 5, *SIZE)
    state = model.reconstruct(**of(views, [0, 1]), keep_sums=True)
    both, one, other = (
        model.forget(model.extend(state, **of(views, [2, 3, 4])), **of(views, chosen)) for chosen in ([2, 3, 4], [2], [3, 4])
    )
    assert_close(both, state)
    again = model.forget(model.forget(model.extend(state, **of(views, [2, 3, 4])), **of(views, [2])), **of(views, [3, 4]))
    # In the first layer; later ones read a state without view 2 when 3 and 4 are taken out.
    assert_close(again, state, range(1))
    assert one.c2w.shape[1] == 4
    assert other.c2w.shape[1] == 3


def test_every_pass_makes_one_more_layer_exact(model):
    views = random_views(1, 6, *SIZE)
    exact, layers = model.reconstruct(**views), len(model.mixing_layers)
    for passes in range(1, layers + 1):
        state = model.reconstruct_stream(stream_of(views), chunk=2, first=2, passes=passes, focus=exact.focus)
        assert_close(state, exact, range(passes))
        if passes == 1:
            off = max(relative_error(state.layers[-1][name], x) for name, x in exact.layers[-1].items())
            assert off > 10 * ROUNDING, "a single pass is exact by accident"
    more = model.reconstruct_stream(stream_of(views), chunk=2, first=2, passes=layers + 3, focus=exact.focus)
    assert_equal(more, state)


def test_a_state_on_disk_grows_like_one_in_memory(model, tmp_path: Path):
    views = random_views(2, 5, *SIZE)
    state = model.reconstruct(**of(views, [0, 1, 2]), keep_sums=True)
    state.save(tmp_path / "state.safetensors")
    loaded = SceneState.load(tmp_path / "state.safetensors")
    assert_equal(model.extend(loaded, **of(views, [3, 4])), model.extend(state, **of(views, [3, 4])))
    assert_equal(model.forget(loaded, **of(views, [1])), model.forget(state, **of(views, [1])))


def test_sums_in_another_precision_are_read_in_float32(lact, tmp_path: Path):
    state = lact.reconstruct(**random_views(1, 3, *SIZE), keep_sums=True)
    double = SceneState(**{**vars(state), "sums": [{name: x.double() for name, x in layer.items()} for layer in state.sums]})
    double.save(tmp_path / "double.safetensors")
    assert_equal(lact.extend(SceneState.load(tmp_path / "double.safetensors"), **GOOD), lact.extend(state, **GOOD))


def test_views_that_came_last_are_forgotten_as_if_they_had_never_come(model):
    views = random_views(2, 5, *SIZE)
    state = model.reconstruct(**of(views, [0, 1, 2]), keep_sums=True)
    found = model.forget(model.extend(state, **of(views, [3, 4])), **of(views, [4, 3]))
    assert_close(found, state)
    assert torch.equal(found.c2w, state.c2w)
    assert torch.equal(found.fxfycxcy, state.fxfycxcy)


def test_forgetting_subtracts_what_a_view_wrote(lact):
    views = random_views(1, 4, *SIZE)
    state = lact.reconstruct(**views, keep_sums=True)
    found = lact.forget(state, **of(views, [1]))
    assert_close(found, lact.reconstruct(**of(views, [0, 2, 3])), range(1))
    assert torch.equal(found.c2w, views["c2w"][:, [0, 2, 3]])
    alone = lact.forget(lact.forget(found, **of(views, [0])), **of(views, [3]))
    assert alone.c2w.shape[1] == 1


def test_of_two_views_from_one_camera_one_is_forgotten(lact):
    views = of(random_views(1, 3, *SIZE), [0, 1, 1, 2])
    found = lact.forget(lact.reconstruct(**views, keep_sums=True), **of(views, [1]))
    assert torch.equal(found.c2w, views["c2w"][:, [0, 1, 3]])


def test_states_grow_in_bfloat16(model):
    views = random_views(1, 5, *SIZE)
    wanted = model.extend(model.reconstruct(**of(views, [0, 1, 2]), keep_sums=True), **of(views, [3, 4]))
    model.set_compute_dtype(torch.bfloat16)
    state = model.extend(model.reconstruct(**of(views, [0, 1, 2]), keep_sums=True), **of(views, [3, 4]))
    assert all(x.dtype == torch.float32 for layer in state.sums or [] for x in layer.values())
    assert all(x.dtype == torch.bfloat16 for layer in state.layers for x in layer.values())
    targets = cameras(random_views(1, 2, *SIZE, seed=9))
    rendered = model.render(state, *targets, SIZE)
    # Images in 0..1 through layers of 8-bit mantissas.
    assert (rendered - model.set_compute_dtype(torch.float32).render(wanted, *targets, SIZE)).abs().max() < 0.1


def test_the_focus_stays_that_of_the_first_views_and_its_drift_is_told():
    model, views = small_model(*NETWORKS["addressed"]), random_views(1, 6, *SIZE)
    first = model.reconstruct(**of(views, [0, 1]), keep_sums=True)
    state = model.extend(first, **of(views, [2, 3, 4, 5]))
    assert first.focus is not None
    assert torch.equal(state.focus, first.focus)
    assert first.focus_drift.item() == 0
    move = (focus_of(views["c2w"]) - first.focus).norm()
    distance = (views["c2w"][0, :, :3, 3] - first.focus).norm(dim=-1).mean()
    assert state.focus_drift.item() == pytest.approx((move / distance).item(), rel=1e-5)
    assert torch.equal(model.reconstruct_stream(stream_of(views), focus=torch.zeros(3)).focus, torch.zeros(1, 3))
    assert small_model(*NETWORKS["LaCT"]).reconstruct(**views, focus=torch.zeros(3)).focus_drift is None


@pytest.mark.parametrize(("arguments", "sizes"), [({}, [8, 1, 1]), ({"chunk": 9}, [9, 1]), ({"focus": torch.zeros(3)}, [1] * 10)])
def test_without_a_focus_the_first_chunk_has_eight_views(lact, arguments, sizes):
    seen = []
    lact.reconstruct_stream(stream_of(random_views(1, 10, *SIZE)), progress=seen.append, **arguments)
    assert seen == list(itertools.accumulate(sizes))


def test_a_stream_holds_no_more_than_a_chunk(lact):
    views, alive, most = stream_of(random_views(1, 9, *SIZE)), 0, 0

    class Image(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def counted():
        nonlocal alive, most
        for image, *camera in views:
            alive += 1
            most = max(most, alive)
            yield image.clone().as_subclass(Image), *camera

    del most, alive
    alive = most = 0
    seen = []
    lact.reconstruct_stream(counted(), chunk=2, first=2, progress=seen.append)
    assert most <= 3  # a chunk, and the item that is being taken
    assert seen == [2, 4, 6, 8, 9]


def test_a_compiled_network_is_not_compiled_for_every_chunk():
    """Ten chunks: PyTorch gives up on the ninth graph of a function."""
    views = random_views(1, 10, *SIZE)
    eager, compiled = (small_model(*NETWORKS["full attention"]) for _ in range(2))
    compiled.compile_layers(backend="aot_eager")
    assert_close(
        compiled.reconstruct_stream(stream_of(views), first=1, passes=2),
        eager.reconstruct_stream(stream_of(views), first=1, passes=2),
    )
    assert_close(compiled.reconstruct(**views, chunk_views=1), eager.reconstruct(**views))


def test_progress_counts_the_views_of_all_passes(lact):
    seen = []
    lact.reconstruct_stream(stream_of(random_views(1, 5, *SIZE)), chunk=2, first=2, passes=2, progress=seen.append)
    assert seen == [2, 4, 5, 7, 9, 10]


GOOD = random_views(1, 2, *SIZE, seed=4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": GOOD["image"] * 255}, r"extend, image: reaches from .* wanted numbers in 0..1"),
        ({"c2w": GOOD["c2w"] * 2}, "extend, c2w, view 0: "),
        ({"c2w": GOOD["c2w"][:, :1]}, "both of the same views"),
        (random_views(2, 2, *SIZE), "scene state: holds 1 scene; wanted 2"),
        (random_views(1, 2, 12, 8), r"extend, image: is of 12×8 \(h×w\); wanted 8×12, as the state's views"),
        (random_views(1, 0, *SIZE), "0 views; wanted at least one view"),
        ({"image": PosedImages(**{name: x[0] for name, x in GOOD.items()}), "fxfycxcy": None}, "a scene and cameras"),
    ],
)
def test_views_that_do_not_fit_leave_the_state_as_it_was(lact, change, match):
    state = lact.reconstruct(**random_views(1, 3, *SIZE), keep_sums=True)
    before = copy.deepcopy(tensors_of(state))
    with pytest.raises(InputError, match=match) as caught:
        lact.extend(state, **{**GOOD, **change})
    assert "\n" not in str(caught.value)
    assert all(torch.equal(x, before[name]) for name, x in tensors_of(state).items())


def test_growing_leaves_the_state_as_it_was(model):
    views = random_views(1, 5, *SIZE)
    state = model.reconstruct(**of(views, [0, 1, 2]), keep_sums=True)
    before = copy.deepcopy(tensors_of(state))
    model.forget(model.extend(state, **of(views, [3, 4])), **of(views, [0]))
    assert all(torch.equal(x, before[name]) for name, x in tensors_of(state).items())


def test_states_that_cannot_grow_are_refused(lact):
    views = random_views(1, 3, *SIZE)
    with pytest.raises(InputError, match=r"scene state: holds no sums, .* wanted a state of reconstruct\(…, keep_sums=True\)"):
        lact.extend(lact.reconstruct(**views), **GOOD)
    state = lact.reconstruct(**views, keep_sums=True)
    assert state.sums is not None
    state.sums[1] = {"dw0": torch.ones(1)}
    with pytest.raises(InputError, match=r"holds {'dw0': \(1,\)} for the sums of layer 1; wanted {'dw0': \(2, 24, 36\), .*"):
        lact.extend(state, **GOOD)
    with pytest.raises(InputError, match="holds no sums"):
        lact.extend(SceneState(**{**vars(state), "sums": []}), **GOOD)
    with pytest.raises(InputError, match="scene state: was written by weights"):
        small_model(*NETWORKS["LaCT"], seed=1).extend(lact.reconstruct(**views, keep_sums=True), **GOOD)


def test_views_that_a_state_does_not_hold_are_not_forgotten(lact):
    views = random_views(1, 3, *SIZE)
    state = lact.reconstruct(**views, keep_sums=True)
    with pytest.raises(InputError, match="forget: is given a view, number 0, that the state does not hold"):
        lact.forget(state, **GOOD)
    with pytest.raises(InputError, match="forget: is given all 3 views of the state; wanted some of them"):
        lact.forget(state, **views)


def test_frames_are_not_mixed(lact):
    views = [
        PosedImages(**{name: x[0, i : i + 1] for name, x in random_views(1, 2, *SIZE).items()}, normalised=bool(i)) for i in (0, 1)
    ]
    state = lact.reconstruct(views[0], keep_sums=True)
    with pytest.raises(InputError, match="views: have normalised poses"):
        lact.extend(state, views[1])
    with pytest.raises(InputError, match="views: have normalised poses"):
        lact.reconstruct_stream(views)


def posed(views: Views, **frame: bool) -> PosedImages:
    """Return the views of one scene."""
    return PosedImages(**{name: x[0] for name, x in views.items()}, **frame)


ONE = stream_of(random_views(1, 1, *SIZE))[0]
NONE = posed(random_views(1, 0, *SIZE))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"views": []}, "reconstruct_stream, views: holds no views; wanted at least one"),
        ({"views": 3}, "reconstruct_stream, views: is an int; wanted an iterable of PosedImages"),
        ({"views": [3]}, "reconstruct_stream, views, item 0: is an int; wanted PosedImages, or tuples"),
        ({"views": [ONE[:2]]}, "item 0: is a tuple"),
        ({"views": [ONE, (ONE[0] * 300, *ONE[1:])]}, "item 1, image: reaches from"),
        ({"views": [ONE, (ONE[0][:, :4], *ONE[1:])]}, r"item 1: is of 4×12 \(h×w\); wanted 8×12, as the first"),
        ({"views": [tuple(x[None, None] for x in ONE)]}, "item 0: is .* wanted views of one scene"),
        ({"chunk": 0}, "chunk: is 0; wanted a whole number, 1 or more"),
        ({"chunk": 1.0}, "chunk: is 1.0"),
        ({"passes": 0}, "passes: is 0"),
        ({"first": 0}, "first: is 0"),
        ({"views": [NONE]}, "reconstruct_stream, views: holds no views; wanted at least one"),
        ({"views": iter([ONE]), "passes": 2}, "views: is a list_iterator, which can be read once; wanted a list, or passes=1"),
        ({"focus": torch.zeros(2)}, r"focus: is \(2,\), float32; wanted finite"),
        ({"focus": torch.full((3,), 1e300, dtype=torch.float64)}, r"focus: is \(3,\), float64; wanted finite"),
        ({"focus": [0, 0, 0]}, "focus: is a list"),
    ],
)
def test_streams_that_cannot_be_read_are_refused(lact, arguments, match):
    with pytest.raises(InputError, match=match):
        lact.reconstruct_stream(**{"views": [ONE], **arguments})


def test_a_state_does_not_move_with_the_cameras_of_its_caller(lact):
    """A capture may write each camera over the one before."""
    views = random_views(1, 3, *SIZE)
    state = lact.reconstruct(**views, keep_sums=True)
    before = copy.deepcopy(tensors_of(state))
    views["c2w"][..., :3, 3] += 1
    views["fxfycxcy"] *= 2
    assert all(torch.equal(x, before[name]) for name, x in tensors_of(state).items())


@pytest.mark.parametrize("passes", [1, 2])
def test_items_without_views_change_nothing(lact, passes):
    """Whatever their size and frame."""
    views = random_views(1, 3, *SIZE)
    other = posed(random_views(1, 0, 12, 8), normalised=True)
    items = [posed(of(views, [i]), normalised=False) for i in range(3)]
    found = lact.reconstruct_stream([other, NONE, items[0], NONE, items[1], other, items[2], NONE], passes=passes)
    assert_equal(found, lact.reconstruct_stream(items, passes=passes))
    assert found.normalised is False


def test_views_come_from_a_dataset_and_its_loader(lact):
    """A dataset has no __iter__; a loader makes lists of tuples, and arrays are as good as tensors."""
    views = stream_of(random_views(1, 3, *SIZE))

    class Photos(Dataset):
        def __getitem__(self, i):
            return views[i]

        def __len__(self):
            return len(views)

    wanted = lact.reconstruct_stream(views, passes=2)
    assert_equal(lact.reconstruct_stream(Photos(), passes=2), wanted)
    assert_equal(lact.reconstruct_stream(DataLoader(Photos(), batch_size=None), passes=2), wanted)
    arrays = [PosedImages(*(x[None].numpy() for x in view)) for view in views]
    assert_equal(lact.reconstruct_stream(arrays, passes=2), wanted)


@pytest.mark.parametrize("order", [[0, 0, 1], [0, 1], [0.0, 1.0, 2.0], [None, 1, 2], 5, None])
def test_an_order_is_of_all_views(lact, order):
    state = lact.reconstruct(**random_views(1, 3, *SIZE), keep_sums=True)
    with pytest.raises(InputError, match=r"reordered, order: is .*; wanted 0 to 2, each once$"):
        lact.reordered(state, order)
    with pytest.raises(InputError, match=r"scene state: is a str; wanted what reconstruct or SceneState.load returns"):
        lact.reordered("state", [0, 1, 2])


@pytest.mark.parametrize("make", [tuple, torch.tensor, iter])
def test_an_order_may_be_of_any_kind(model, make):
    state = model.reconstruct(**random_views(1, 3, *SIZE), keep_sums=True)
    assert_equal(model.reordered(state, make([2, 0, 1])), model.reordered(state, [2, 0, 1]))


@pytest.mark.parametrize(("second", "match"), [(1, "holds 1 the second time; wanted 2 views"), (3, "holds more the second time")])
def test_another_number_of_views_in_another_pass_is_refused(lact, second, match):
    class Changing:
        count = 2

        def __iter__(self):
            count, self.count = self.count, second
            return iter([ONE] * count)

    with pytest.raises(InputError, match=match):
        lact.reconstruct_stream(Changing(), passes=2)


def test_views_in_another_order_in_another_pass_are_refused(lact):
    """As a loader that shuffles gives them: cameras and what the views write would no longer belong together."""
    views = stream_of(random_views(1, 3, *SIZE))

    class Shuffled:
        def __iter__(self):
            views.reverse()
            return iter(views)

    with pytest.raises(
        InputError, match="holds other views, or in another order, the second time; wanted the same, as the first time"
    ):
        lact.reconstruct_stream(Shuffled(), passes=2)
