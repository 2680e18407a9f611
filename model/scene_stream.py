"""Views of a scene one by one, read when they are asked for, also while the scene is still being captured.

Letters: v views, h w pixels.
"""

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import counted
from data.dataset import cameras_at, load_views
from data.growing_scene import GrowingScene, Patience
from data.scene_format import Scene
from data.stored_file import file_state
from model.posed_images import PosedImages, kind_of
from model.scene_request import SceneRequest, poses_in

# No state of a file.
_UNTRIED = (-1, -1)


class ViewsMissing(UserWarning):
    """A stream has ended before all listed views came."""


class SceneStream:
    """The views of a scene, in order: an iterable of `PosedImages` of one view each.

    With `wait_s`, the scene may still be growing. The stream ends when it has given the views that were asked for by number or
    position, or when nothing new, neither a view nor a photo nor a part of one, has come for so long: with a warning if some listed
    photos never came; with an error if none did, of a photo that did come but cannot be read, or of a JSON that remains
    half-written. When it has ended without an error, it has a length, and iterating again gives the same views without waiting;
    without `wait_s` it is so from the start.

    Args:
        scene: as it is listed now.
        request: size and frame.
        views: see `stream_scene`.
        wait_s: see `stream_scene`.

    Attributes:
        name: the scene's.
        image_size: (h, w) of every view.
        normalised: whether poses are normalised, as for scenes.
        from_capture: (4, 4) float64, the similarity that moves points of the scene file's frame into that of the poses; None if it
            is the same.
        missing: one line about the listed views that never came, which is also warned of; empty if there are none.

    Raises:
        InputError: the scene has no such views, or its cameras set no frame.
    """

    def __init__(self, scene: Scene, request: SceneRequest, views: int | Sequence[int] | None, wait_s: float) -> None:
        chosen = request.choose(scene, views)
        self._frame = request.frame(scene, chosen)
        self._growing, self._wait_s = GrowingScene(scene), wait_s
        self._chosen = None if views is None and wait_s else chosen
        self._ended, self._most_read = not wait_s, 0
        self.missing = ""
        self.name, self.image_size, self.normalised = scene.name, request.image_size, request.normalise
        self.from_capture: Tensor | None = None if self._frame is None else self._frame.matrix[0]

    @property
    def scene(self) -> Scene:
        """The scene as it is known by now."""
        return self._growing.scene

    @property
    def views(self) -> list[int]:
        """Positions of the views in the scene: those that are known by now."""
        return list(range(len(self.scene.views))) if self._chosen is None else list(self._chosen)

    def cameras(self) -> tuple[Tensor, Tensor]:
        """Return the cameras of the views that are known by now, without reading a photo.

        Returns:
            fxfycxcy (v, 4) float32 in pixels of images of `image_size`, up to a pixel of rounding where a photo has another size
            than its camera states; and c2w (v, 4, 4) float32, in the frame that the network sees.
        """
        scene, views = self.scene, self.views
        return torch.from_numpy(cameras_at(scene, self.image_size)[0][views]), poses_in(self._frame, scene, views)

    def __len__(self) -> int:
        if not self._ended:
            raise TypeError(f"{self.name}: a stream that waits for views has a length when it has ended")
        return len(self.views)

    def __iter__(self) -> Iterator[PosedImages]:
        """Yield the views from the start.

        Raises:
            FileNotFoundError: a photo does not exist, and is not waited for; or no photo has come at all.
            InputError: a photo is damaged, a view has changed in the JSON after it was read, or a chosen one is gone.
        """
        patience = Patience(0 if self._ended else self._wait_s)
        done, tried, problem = 0, _UNTRIED, None
        while True:
            if not self._ended and self._growing.refresh(self.views[: self._most_read]):
                patience.renew()
            views = self.views
            if done == len(views) and self._chosen is not None:
                break
            self._check_listed(views[done:])
            if done < len(views) and (state := self._photo_state(views[done])) != tried:
                tried = state
                patience.renew()
                try:
                    view = self._load(views[done])
                except (FileNotFoundError, InputError) as error:
                    problem = error
                else:
                    done, tried, problem = done + 1, _UNTRIED, None
                    self._most_read = max(self._most_read, done)
                    yield view
                    patience.renew()
                    continue
            if not patience.pause():
                break
        if isinstance(problem, InputError) or (problem is not None and (self._ended or done == 0)):
            raise problem
        self._end(done)

    def _end(self, done: int) -> None:
        """End the wait for more than the views that were read."""
        self._growing.check()
        views = self.views
        if done < len(views):
            missing = self.scene.views[views[done]].file_path
            found = f"{self.scene.json_path}: the stream ends after {done} of {counted(len(views), 'listed view')}"
            self.missing = f"{found}: {missing} has not come within {self._wait_s:g} s"
            warnings.warn(self.missing, ViewsMissing, stacklevel=3)
        self._chosen, self._ended = views[:done], True

    def _check_listed(self, views: Sequence[int]) -> None:
        """Check that the scene still lists views that were chosen when it did."""
        if max(views, default=-1) >= len(self.scene.views):
            found = "is gone since the stream began"
            raise InputError(f"{self.scene.json_path}, view {max(views)}", found, "more views at the end alone")

    def _load(self, view: int) -> PosedImages:
        scene = self.scene
        loaded = load_views(scene, [view], self.image_size, patch_size=1)
        c2w = poses_in(self._frame, scene, [view])
        return PosedImages(loaded["image"], loaded["fxfycxcy"], c2w, self.name, [view], self.normalised, self.from_capture)

    def _photo_state(self, view: int) -> tuple[int, int] | None:
        """Return what changes when a photo is written, None where there is none."""
        try:
            return file_state(self.scene.views[view].file_path)
        except FileNotFoundError:
            return None

    def __repr__(self) -> str:
        h, w = self.image_size
        so_far = "" if self._ended else " so far"
        return f"SceneStream({self.name}: {counted(len(self.views), 'view')}{so_far} of {h}×{w}, {kind_of(self.normalised)})"
