"""A scene in the viewer: its cameras in the frame that the network sees, its photos, and what was reconstructed from some of them.

Letters: n views of the scene, v of them inputs, h w pixels. Axes are OpenCV's. `c2w` is world from camera.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.dataset import cameras_at, load_views
from data.output.video import to_uint8
from data.scene_format import Scene
from model.camera_path import moved_poses
from model.lact_lvsm import LaCTLVSM
from model.layers.address import focus_of
from model.scene_state import SceneState

# Photos in memory, full size; each of 536×960 takes 6 MB.
KEPT_PHOTOS = 32
# Spread of the inputs in the browser.
SHOWN_SPREAD = 4.0
# Least spread, in units of the distance to what is looked at: cameras at one place have none.
_NO_SPREAD = 0.1
# A camera that looks around turns about a point this near, in units of the spread.
_NEAR = 0.1


class Abandoned(Exception):
    """A reconstruction that is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Where a scene's photos come from.

    Attributes:
        scene: the scene on disk.
        image_size: (h, w) at which the network reads them.
        choose: picks the inputs, positions of views, given their number.
    """

    scene: Scene
    image_size: tuple[int, int]
    choose: Callable[[int], list[int]]


def few_differ(before: Sequence[int], after: Sequence[int]) -> bool:
    """Return whether inputs change, by half as many views at most, added and taken out together, as there are afterwards."""
    return 0 < len(set(before) ^ set(after)) <= len(after) / 2


class ViewedScene:
    """The scene.

    Args:
        name: shown in the menu.
        model: the network.
        fxfycxcy, c2w: (n, 4) pixels of `image_size` and (n, 4, 4), of all views; without photos, of the inputs.
        image_size: (h, w).
        inputs: positions of the inputs.
        normalised: whether it is a scene with normalised poses, not an object.
        photos: where they come from; None for a saved state.
        state: the reconstruction, if there is one.
        from_capture: (4, 4) the similarity from the capture's frame into that of `c2w`; None if they are the same.
        chunk_views: views computed at a time; None: by free memory.

    Attributes:
        state: the current reconstruction; None: none yet.
        exact: whether it is of all inputs together, not of `quick_change`.
    """

    def __init__(
        self,
        name: str,
        model: LaCTLVSM,
        fxfycxcy: Tensor,
        c2w: Tensor,
        image_size: tuple[int, int],
        inputs: Sequence[int],
        normalised: bool,
        photos: Photos | None = None,
        state: SceneState | None = None,
        from_capture: Tensor | None = None,
        chunk_views: int | None = None,
    ) -> None:
        self.name, self.model, self.image_size, self.normalised = name, model, image_size, normalised
        self.fxfycxcy, self.c2w = fxfycxcy.cpu().float(), c2w.cpu().double().numpy()
        self.photos, self.chunk_views = photos, chunk_views
        self.from_capture = np.eye(4) if from_capture is None else from_capture.cpu().double().numpy()
        self.inputs: list[int] = []
        self.use(inputs, state)
        self.spread = self._spread()
        self._photo = functools.lru_cache(KEPT_PHOTOS)(self._load)
        self._lock = threading.Lock()

    @classmethod
    def of_state(cls, state: SceneState, model: LaCTLVSM, name: str, chunk_views: int | None = None) -> "ViewedScene":
        """Return a saved reconstruction, without photos."""
        views = state.c2w.shape[1]
        moved = None if state.from_capture is None else state.from_capture[0]
        return cls(
            name, model, state.fxfycxcy[0], state.c2w[0], state.image_size, range(views), bool(state.normalised),
            state=state, from_capture=moved, chunk_views=chunk_views,
        )  # fmt: skip

    @classmethod
    def of_photos(
        cls,
        photos: Photos,
        model: LaCTLVSM,
        name: str,
        inputs: Sequence[int],
        from_capture: Tensor | None,
        chunk_views: int | None = None,
    ) -> "ViewedScene":
        """Return a scene with its photos, not yet reconstructed.

        Args:
            inputs: positions of the first inputs.
            from_capture: (4, 4) the similarity that normalises its poses; None for an object.
        """
        fxfycxcy, c2w = map(torch.from_numpy, cameras_at(photos.scene, photos.image_size))
        if from_capture is not None:
            c2w = moved_poses(c2w, from_capture)
        return cls(
            name, model, fxfycxcy, c2w, photos.image_size, inputs, from_capture is not None,
            photos, from_capture=from_capture, chunk_views=chunk_views,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.c2w)

    @property
    def aspect(self) -> float:
        return self.image_size[1] / self.image_size[0]

    @property
    def has_photos(self) -> bool:
        return self.photos is not None

    def photo(self, view: int) -> tuple[Tensor, Tensor]:
        """Return a photo, (3, h, w) in 0..1, and its intrinsics (4); raises what `load_views` does."""
        with self._lock:
            return self._photo(view)

    def _load(self, view: int) -> tuple[Tensor, Tensor]:
        assert self.photos is not None
        loaded = load_views(self.photos.scene, [view], self.image_size, patch_size=1)
        return loaded["image"][0], loaded["fxfycxcy"][0]

    def field_of_view(self, view: int) -> tuple[float, float]:
        """Return the vertical field of view, in radians, and the aspect of a view's photo as a pinhole camera sees it."""
        fx, fy = self.fxfycxcy[view, :2].tolist()
        h, w = self.image_size
        return 2 * float(np.arctan(h / (2 * fy))), (w / fx) / (h / fy)

    def use(self, inputs: Sequence[int], state: SceneState | None, exact: bool = True) -> None:
        """Take a reconstruction of these inputs as the current one.

        `centre` is then what they look at: the origin for objects, else the point nearest to their axes. `up` is z for objects,
        whose frame is upright, else the mean of the inputs' own up.
        """
        self.inputs, self.state, self.exact = list(inputs), state, exact
        if not self.normalised:
            self.centre, self.up = np.zeros(3), np.array([0.0, 0.0, 1.0])
            return
        c2w = self.c2w[self.inputs]
        self.centre = focus_of(torch.from_numpy(c2w)[None].float())[0].double().numpy()
        up = -c2w[:, :3, 1].mean(0)
        length = np.linalg.norm(up)
        self.up = up / length if length > 1e-6 else -c2w[0, :3, 1]

    def _spread(self) -> float:
        """Return the root mean square distance of the inputs from their mean: the unit of distances, whatever inputs follow."""
        position = self.c2w[self.inputs, :3, 3]
        spread = float(np.sqrt(((position - position.mean(0)) ** 2).sum(1).mean()))
        distance = float(np.linalg.norm(position - self.centre, axis=1).mean())
        return max(spread, _NO_SPREAD * distance, 1e-6)

    @property
    def shown_scale(self) -> float:
        """Length in the browser of a unit of the scene: the keys move a camera by 2 units a second there, here half a spread."""
        return SHOWN_SPREAD / self.spread

    def turning_distance(self, c2w: np.ndarray, in_place: bool) -> float:
        """Return the distance, on the viewing axis, of the point that dragging turns about: near, or level with `centre`."""
        if in_place:
            return _NEAR * self.spread
        depth = float((self.centre - c2w[:3, 3]) @ c2w[:3, 2])
        return depth if depth > _NEAR * self.spread else self.spread

    def angle_to_inputs(self, c2w: np.ndarray) -> float:
        """Return the angle, in radians, between a camera's viewing direction and that of the input most like it."""
        return float(np.arccos(np.clip(self.c2w[self.inputs, :3, 2] @ c2w[:3, 2], -1, 1).max()))

    def distance_to_inputs(self, position: np.ndarray) -> float:
        """Return the distance from a point (3) to the nearest input, in units of `spread`."""
        return float(np.linalg.norm(self.c2w[self.inputs, :3, 3] - position, axis=1).min()) / self.spread

    def reconstruct(self, inputs: Sequence[int], progress: Callable[[float], None]) -> SceneState:
        """Return what the network makes of some of the photos, with the sums that `quick_change` needs.

        Args:
            inputs: positions of views.
            progress: called with the part that is done, 0 to 1; may raise `Abandoned`.

        Raises:
            Abandoned: by `progress`.
            FileNotFoundError, InputError: a photo cannot be read.
        """
        progress(0.0)
        state = self.model.reconstruct(
            *self._posed_images(inputs), self.chunk_views, lambda done, of: progress(done / of), keep_sums=True
        )
        state.normalised = self.normalised
        state.from_capture = torch.from_numpy(self.from_capture)[None] if self.normalised else None
        return state

    def quick_change(self, inputs: Sequence[int], still_wanted: Callable[[], None]) -> SceneState | None:
        """Return the current state without the photos that are no longer inputs and with those that are new, in their time alone.

        It is not quite what `reconstruct` makes of these inputs: see `LaCTLVSM.extend` and `forget`. Those that leave go first,
        so that the new ones read nothing of them.

        Args:
            inputs: positions of views.
            still_wanted: called between steps; may raise `Abandoned`.

        Returns:
            the state; None where nothing or too much changes, or there is no state.

        Raises:
            Abandoned: by `still_wanted`.
            FileNotFoundError, InputError: a photo cannot be read.
        """
        state = self.state
        if state is None or not few_differ(self.inputs, inputs):
            return None
        leaving = [view for view in self.inputs if view not in inputs]
        new = [view for view in inputs if view not in self.inputs]
        if leaving:
            state = self.model.forget(state, *self._posed_images(leaving), self.chunk_views)
            still_wanted()
        if new:
            state = self.model.extend(state, *self._posed_images(new), self.chunk_views, lambda done, of: still_wanted())
        return state

    def _posed_images(self, views: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return image (1, v, 3, h, w), fxfycxcy (1, v, 4) and c2w (1, v, 4, 4) of some views; raises what `load_views` does."""
        assert self.photos is not None
        loaded = load_views(self.photos.scene, views, self.image_size, patch_size=1)
        return loaded["image"][None], loaded["fxfycxcy"][None], torch.from_numpy(self.c2w[list(views)]).float()[None]

    def render(
        self, fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int], cancelled: Callable[[], bool] | None = None
    ) -> np.ndarray | None:
        """Render one view of the current state; return (h, w, 3) uint8, or None if it was cancelled."""
        state = self.state
        assert state is not None
        stream = self.model.render_stream(state, fxfycxcy[None, None], c2w[None, None], image_size, 1, cancelled)
        for image in stream:
            return to_uint8(image[0, 0])
        return None
