"""The thread that reconstructs scenes in the background: the latest request counts, the one before it is abandoned.

Where few inputs change, a quick state, see `ViewedScene.quick_change`, is finished first, and the exact one replaces it.
"""

import threading
from collections.abc import Callable, Sequence

from config.errors import InputError, line_of
from model.runtime import full_memory_is_refused
from model.scene_state import SceneState
from model.viewer.viewed_scene import Abandoned, ViewedScene, few_differ

# The exact state waits so long, at most, for a picture of the quick one: side by side both would take longer.
PICTURE_S = 5.0
ADVICE = "fewer input views, smaller images or --chunk_views 1"


class Reconstructor:
    """The thread.

    Args:
        progress: receives the part that is done, 0 to 1; None once nothing is being reconstructed.
        finished: receives scene, inputs, state, and whether that is the exact one.
        failed: receives one line that says why there is no exact state.
    """

    def __init__(
        self,
        progress: Callable[[float | None], None],
        finished: Callable[[ViewedScene, list[int], SceneState, bool], None],
        failed: Callable[[str], None],
    ) -> None:
        self._progress, self._finished, self._failed = progress, finished, failed
        self._wanted: tuple[ViewedScene, list[int]] | None = None
        self._current: tuple[ViewedScene, list[int]] | None = None
        # The scene on the screen while its state is a quick one.
        self._quick: ViewedScene | None = None
        self._seen = False
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="reconstruct", daemon=True)
        self._thread.start()

    def request(self, scene: ViewedScene, inputs: Sequence[int]) -> None:
        """Reconstruct a scene from these of its views."""
        with self._changed:
            self._wanted = scene, list(inputs)
            self._changed.notify()

    def wanted(self, scene: ViewedScene) -> list[int]:
        """Return the inputs of the reconstruction of a scene that is waiting or under way, else those that the scene has."""
        with self._changed:
            request = self._wanted or self._current
        return list(request[1] if request is not None and request[0] is scene else scene.inputs)

    def go_on(self) -> None:
        """Begin with the exact state: a picture of the quick one has been sent, or nobody looks."""
        with self._changed:
            self._seen = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread; a reconstruction in the works is abandoned."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted is not None)
                if self._closed:
                    return
                assert self._wanted is not None
                scene, inputs = self._wanted
                self._current, self._wanted = self._wanted, None
            try:
                self._show_quick(scene, inputs)
                with full_memory_is_refused(ADVICE):
                    state = scene.reconstruct(inputs, self._advance)
            except Abandoned:
                continue
            except (InputError, OSError) as error:
                self._give_up(scene, inputs)
                self._failed(line_of(error))
            else:
                self._quick = None
                self._finished(scene, inputs, state, True)
                self._current = None
            self._progress(None)

    def _show_quick(self, scene: ViewedScene, inputs: list[int]) -> None:
        """Finish a quick state, if there is one. Any photo that it cannot read is left to the exact one to judge.

        It is not abandoned for a request that goes on from it: the work would only have to be done again.
        """

        def still_wanted() -> None:
            wanted = self._wanted
            if self._closed or (wanted and (wanted[0] is not scene or not few_differ(inputs, wanted[1]))):
                raise Abandoned

        self._progress(0.0)
        try:
            with full_memory_is_refused(ADVICE):
                state = scene.quick_change(inputs, still_wanted)
        except (InputError, OSError):
            return
        if state is None:
            return
        self._quick, self._seen = scene, False
        self._finished(scene, inputs, state, False)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._wanted is not None or self._seen, PICTURE_S)

    def _give_up(self, scene: ViewedScene, inputs: list[int]) -> None:
        """End a request that failed; if it kept the state on the screen from becoming exact, that comes next."""
        with self._changed:
            quick, self._current = self._quick, None
            if quick is not None and (scene is not quick or inputs != quick.inputs) and self._wanted is None:
                self._wanted = quick, quick.inputs

    def _advance(self, done: float) -> None:
        if self._closed or self._wanted is not None:
            raise Abandoned
        self._progress(done)
