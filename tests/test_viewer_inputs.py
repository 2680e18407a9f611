"""Inputs of the viewer that change: a quick state at once, then the exact one, whatever is clicked meanwhile."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from torch import Tensor

from config.errors import InputError
from data.dataset import load_views
from model import LaCTLVSM, SceneState
from model.viewer import PathFiles, start_viewer
from model.viewer.viewed_scene import ViewedScene
from tests.support.networks import small_model
from tests.support.viewers import SIZE, assert_same_scene, example_scenes, others_of, photos_of, until

viser = pytest.importorskip("viser", reason="the viewer needs viser: pip install -r tests/requirement.txt")

from model.viewer.viewer import Viewer, free_port  # noqa: E402
from tests.support.viewer_client import ViewerClient  # noqa: E402

LOAD_VIEWS = "model.viewer.viewed_scene.load_views"


@pytest.fixture(scope="module")
def model() -> LaCTLVSM:
    return small_model("self_attention", "fast_weight", "mlp")


@dataclass(frozen=True, eq=False)
class Shown:
    """A reconstruction that a scene took."""

    inputs: list[int]
    state: SceneState | None
    exact: bool


@pytest.fixture
def shown(monkeypatch) -> list[Shown]:
    """All reconstructions that scenes take, as they take them."""
    found: list[Shown] = []
    use = ViewedScene.use

    def note(self: ViewedScene, inputs: list[int], state: SceneState | None, exact: bool = True) -> None:
        found.append(Shown(list(inputs), state, exact))
        use(self, inputs, state, exact)

    monkeypatch.setattr(ViewedScene, "use", note)
    return found


@pytest.fixture
def viewer(model, tmp_path, shown):
    with start_viewer(example_scenes(model), SIZE, PathFiles(tmp_path), port=free_port("127.0.0.1", 18580)) as made:
        until(lambda: made.scene.state is not None)
        until(lambda: not made.scene_panel._bar.visible)
        shown.clear()
        yield made


@pytest.fixture
def exact_ones(viewer, monkeypatch) -> threading.Event:
    """Hold exact reconstructions, unless they are abandoned, until the event is set."""
    released, reconstruct = threading.Event(), ViewedScene.reconstruct

    def hold(self: ViewedScene, inputs: list[int], progress: Callable[[float], None]) -> SceneState:
        while not released.wait(0.005):
            progress(0.0)
        return reconstruct(self, inputs, progress)

    monkeypatch.setattr(ViewedScene, "reconstruct", hold)
    return released


@pytest.fixture
def quick_ones(viewer, monkeypatch) -> threading.Event:
    """Hold quick changes before their last step until the event is set."""
    released, change = threading.Event(), ViewedScene.quick_change

    def hold(self: ViewedScene, inputs: list[int], still_wanted: Callable[[], None]) -> SceneState | None:
        state = change(self, inputs, still_wanted)
        while not released.wait(0.005):
            still_wanted()
        return state

    monkeypatch.setattr(ViewedScene, "quick_change", hold)
    return released


def refuse(view: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a photo be unreadable from now on."""

    def load(scene: object, views: list[int], *rest: object, **others: object) -> dict[str, Tensor]:
        if view in views:
            raise InputError(f"{view}.png", "is damaged", "a photo")
        return load_views(scene, views, *rest, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(LOAD_VIEWS, load)


def steps(shown: list[Shown]) -> list[tuple[list[int], str]]:
    """Return the inputs of reconstructions, and which kind they are."""
    return [(step.inputs, "exact" if step.exact else "quick") for step in shown]


def test_a_click_shows_the_quick_state_then_the_exact_one(viewer, shown, exact_ones, monkeypatch):
    scene, first = viewer.scene, viewer.scene.state
    drawn = []
    monkeypatch.setattr(viewer, "redraw_cameras", lambda: drawn.append(scene.exact))
    taken, left = scene.inputs[2], scene.inputs[:2] + scene.inputs[3:]
    assert "reconstruction: exact" in viewer.scene_panel._text.content
    viewer.switch_input(taken)
    until(lambda: len(shown) == 1)
    until(lambda: "5 of 48 views are inputs  \nreconstruction: quick; exact follows" in viewer.scene_panel._text.content)
    assert viewer.wanted_inputs == scene.inputs == left
    assert viewer.scene_panel._bar.visible
    assert_same_scene(scene.state, scene.model.forget(first, *photos_of(scene, [taken])))
    exact_ones.set()
    until(lambda: not viewer.scene_panel._bar.visible)
    assert steps(shown) == [(left, "quick"), (left, "exact")]
    assert_same_scene(scene.state, scene.model.reconstruct(*photos_of(scene, left)))
    assert "5 of 48 views are inputs  \nreconstruction: exact" in viewer.scene_panel._text.content
    assert drawn == [False]  # once: the exact state has the same inputs


def test_the_exact_state_begins_once_a_picture_of_the_quick_one_is_sent(viewer, shown, monkeypatch):
    scene, begun, drawn = viewer.scene, [], threading.Event()
    reconstruct, render = scene.reconstruct, scene.render
    with ViewerClient(viewer.url, scene.shown_scale) as client:
        client.last_picture()
        monkeypatch.setattr(scene, "reconstruct", lambda *args: begun.append(1) or reconstruct(*args))
        monkeypatch.setattr(scene, "render", lambda *args: drawn.wait(30) and render(*args))
        viewer.switch_input(scene.inputs[0])
        until(lambda: len(shown) == 1)
        time.sleep(0.3)
        assert begun == []
        drawn.set()
        until(lambda: scene.exact)
        assert begun == [1]


def test_clicks_go_on_from_the_latest_quick_state_and_one_exact_one_ends_them(viewer, shown, exact_ones):
    scene, state = viewer.scene, viewer.scene.state
    inputs, new = scene.inputs, others_of(scene)[4]
    wanted = []
    for count, view in enumerate((inputs[1], new, inputs[1]), 1):
        before = viewer.wanted_inputs
        viewer.switch_input(view)
        wanted.append(sorted({*before} ^ {view}))
        assert viewer.wanted_inputs == wanted[-1]
        until(lambda count=count: len(shown) == count)
        change = scene.model.forget if view in before else scene.model.extend
        assert_same_scene(shown[-1].state, change(state, *photos_of(scene, [view])))
        state = shown[-1].state
    exact_ones.set()
    until(lambda: scene.exact)
    assert steps(shown) == [*((these, "quick") for these in wanted), (sorted([*inputs, new]), "exact")]
    assert_same_scene(scene.state, scene.model.reconstruct(*photos_of(scene, scene.inputs)))


def test_clicks_faster_than_quick_states_are_gathered(viewer, shown, quick_ones):
    scene, inputs, new = viewer.scene, viewer.scene.inputs, others_of(viewer.scene)
    viewer.switch_input(new[0])
    until(lambda: viewer._reconstructor._wanted is None)
    for view in (new[1], inputs[0], new[2], new[1]):
        viewer.switch_input(view)
    assert scene.inputs == inputs
    wanted = sorted([*inputs[1:], new[0], new[2]])
    assert viewer.wanted_inputs == wanted
    quick_ones.set()
    until(lambda: scene.exact and scene.inputs == wanted)
    # The first one was under way, and is finished.
    assert steps(shown) == [(sorted([*inputs, new[0]]), "quick"), (wanted, "quick"), (wanted, "exact")]


def test_a_quick_state_is_abandoned_for_inputs_far_from_it(viewer, shown, quick_ones):
    scene, new = viewer.scene, others_of(viewer.scene)
    viewer.switch_input(new[0])
    until(lambda: viewer._reconstructor._wanted is None)
    viewer.reconstruct(scene, new[1:4])
    until(lambda: viewer._reconstructor._wanted is None)
    quick_ones.set()
    until(lambda: scene.inputs == new[1:4])
    assert steps(shown) == [(new[1:4], "exact")]


def test_the_slider_far_away_goes_straight_to_the_exact_state(viewer, shown):
    scene = viewer.scene
    viewer.scene_panel._number.value = 3
    viewer.scene_panel._settle()
    until(lambda: len(scene.inputs) == 3)
    assert steps(shown) == [(scene.photos.choose(3), "exact")]


def test_the_slider_one_step_on_is_quick_first_and_stays_where_it_is_moved_to(viewer, shown, exact_ones, monkeypatch):
    scene = viewer.scene
    more = sorted([*scene.inputs, others_of(scene)[0]])
    object.__setattr__(scene.photos, "choose", lambda number: more[:number])
    viewer.scene_panel._number.value = 7
    viewer.scene_panel._settle()
    until(lambda: steps(shown) == [(more, "quick")])
    until(lambda: viewer.scene_panel._settling.finished.is_set())
    monkeypatch.setattr("model.viewer.scene_panel.SETTLED_S", 1000.0)
    viewer.scene_panel._number.value = 6
    viewer.scene_panel._settle()
    exact_ones.set()
    until(lambda: not viewer.scene_panel._bar.visible)
    assert steps(shown) == [(more, "quick"), (more, "exact")]
    assert viewer.scene_panel._number.value == 6  # not yet chosen, and not put back to 7
    assert "7 of 48 views are inputs" in viewer.scene_panel._text.content


def test_a_photo_that_cannot_be_read_changes_nothing_and_the_exact_state_before_it_still_follows(
    viewer, shown, exact_ones, monkeypatch
):
    scene, inputs, new = viewer.scene, viewer.scene.inputs, others_of(viewer.scene)
    lines = []
    monkeypatch.setattr(viewer.scene_panel, "tell", lambda problem="": lines.append(problem))
    viewer.switch_input(new[0])
    until(lambda: len(shown) == 1)
    refuse(new[1], monkeypatch)
    viewer.switch_input(new[1])
    assert viewer.wanted_inputs == sorted([*inputs, *new[:2]])
    until(lambda: viewer._reconstructor._wanted is None)
    exact_ones.set()
    until(lambda: scene.exact)
    assert steps(shown) == [(sorted([*inputs, new[0]]), "quick"), (sorted([*inputs, new[0]]), "exact")]
    assert viewer.wanted_inputs == scene.inputs
    assert lines == ["", f"{new[1]}.png: is damaged; wanted a photo", ""]


def test_a_photo_that_can_no_longer_be_read_can_be_taken_out(viewer, shown, monkeypatch):
    scene, inputs = viewer.scene, viewer.scene.inputs
    refuse(inputs[0], monkeypatch)
    viewer.switch_input(inputs[0])
    until(lambda: scene.inputs == inputs[1:])
    assert steps(shown) == [(inputs[1:], "exact")]


def test_a_quick_state_stays_if_the_exact_one_fails(viewer, shown, monkeypatch):
    scene, inputs, tries = viewer.scene, viewer.scene.inputs, []

    def full(*_: object, **__: object) -> SceneState:
        tries.append(1)
        raise MemoryError

    monkeypatch.setattr(scene.model, "reconstruct", full)
    viewer.switch_input(inputs[0])
    until(lambda: "⚠ memory: is full" in viewer.scene_panel._text.content)
    until(lambda: not viewer.scene_panel._bar.visible)
    assert steps(shown) == [(inputs[1:], "quick")]
    assert "reconstruction: quick  \n⚠" in viewer.scene_panel._text.content
    assert viewer.wanted_inputs == inputs[1:]
    assert tries == [1]  # not once more for the same inputs
    monkeypatch.undo()
    viewer.switch_input(inputs[0])
    until(lambda: scene.exact and scene.inputs == inputs)


def test_another_scene_that_cannot_be_read_leaves_the_first_which_becomes_exact(viewer, exact_ones, monkeypatch):
    scene, inputs = viewer.scene, viewer.scene.inputs
    viewer.switch_input(inputs[0])
    until(lambda: not scene.exact)
    monkeypatch.setattr(LOAD_VIEWS, partial(_of_one_scene, scene.photos.scene))
    viewer.open(1)
    assert viewer.wanted_inputs == scene.inputs == inputs[1:]  # of the scene on the screen
    until(lambda: viewer._reconstructor._wanted is None)
    exact_ones.set()
    until(lambda: scene.exact)
    assert viewer.scene is scene
    assert scene.inputs == inputs[1:]


def _of_one_scene(readable: object, scene: object, *rest: object, **others: object) -> dict[str, Tensor]:
    if scene is not readable:
        raise InputError("other.png", "is damaged", "a photo")
    return load_views(scene, *rest, **others)  # type: ignore[arg-type]


def test_another_scene_abandons_the_exact_state_of_the_first(viewer, shown, exact_ones):
    scene: ViewedScene = viewer.scene
    viewer.switch_input(scene.inputs[0])
    until(lambda: not scene.exact)
    viewer.open(1)
    until(lambda: viewer._reconstructor._wanted is None)
    exact_ones.set()
    until(lambda: viewer.scene is not scene)
    assert viewer.scene.exact
    assert not scene.exact


def test_a_viewer_that_closes_waits_for_neither(model, viewer: Viewer, quick_ones):
    viewer.switch_input(others_of(viewer.scene)[0])
    until(lambda: viewer._reconstructor._wanted is None)
    viewer.close()
    assert not viewer._reconstructor._thread.is_alive()
