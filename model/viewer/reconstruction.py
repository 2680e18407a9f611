"""The thread that reconstructs scenes in the background: the latest request counts, the one before it is abandoned."""

import threading
from collections.abc import Callable, Sequence

from config.errors import InputError, line_of
from model.runtime import full_memory_is_refused
from model.scene_state import SceneState
from model.viewer.viewed_scene import Abandoned, ViewedScene

ADVICE = "fewer input views, smaller images or --chunk_views 1"


class Reconstructor:
    """The thread.

    Args:
        progress: receives the part that is done, 0 to 1; None once nothing is being reconstructed.
        finished: receives scene, inputs and state.
        failed: receives one line that says why there is no state.
    """

    def __init__(
        self,
        progress: Callable[[float | None], None],
        finished: Callable[[ViewedScene, list[int], SceneState], None],
        failed: Callable[[str], None],
    ) -> None:
        self._progress, self._finished, self._failed = progress, finished, failed
        self._wanted: tuple[ViewedScene, list[int]] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="reconstruct", daemon=True)
        self._thread.start()

    def request(self, scene: ViewedScene, inputs: Sequence[int]) -> None:
        """Reconstruct a scene from these of its views."""
        with self._changed:
            self._wanted = scene, list(inputs)
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
                (scene, inputs), self._wanted = self._wanted, None
            try:
                with full_memory_is_refused(ADVICE):
                    state = scene.reconstruct(inputs, self._advance)
            except Abandoned:
                continue
            except (InputError, OSError) as error:
                self._failed(line_of(error))
            else:
                self._finished(scene, inputs, state)
            self._progress(None)

    def _advance(self, done: float) -> None:
        if self._closed or self._wanted is not None:
            raise Abandoned
        self._progress(done)
