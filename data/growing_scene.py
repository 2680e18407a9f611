"""A scene that is still being captured: views are added to the end of its JSON while it is read."""

import os
import time
from collections.abc import Iterable

from config.errors import InputError
from config.paths import find_path
from data.pack import is_pack, split_path
from data.scene_format import CAMERAS, Scene, parse_scene, read_json, same_views
from data.stored_file import file_state

# Seconds between two looks at what has come.
POLL_S = 0.2


class Patience:
    """A wait for something new, which ends when nothing has come for a while.

    Args:
        wait_s: that while, in seconds.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self.renew()

    def renew(self) -> None:
        """Start again, since something has come."""
        self._until = time.monotonic() + self._wait_s

    def pause(self) -> bool:
        """Sleep until the next look; return False, at once, if the wait is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(POLL_S, left))
        return True


class GrowingScene:
    """A scene as its JSON was last read.

    Args:
        scene: as `read_scene` read it.

    Attributes:
        scene: the newest that could be read.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._state: tuple[int, int] | None = None
        self._broken: InputError | None = None

    def refresh(self, used: Iterable[int]) -> bool:
        """Read the JSON again if it has changed; leave one that is missing or half-written for later.

        Args:
            used: positions of views that have to stay as they are.

        Returns:
            whether it lists more views than before.

        Raises:
            InputError: one of those views is gone or another, or a view breaks the format.
        """
        json_path, before = self.scene.json_path, self.scene.views
        try:
            state = file_state(json_path)
            if state == self._state:
                return False
            content = read_json(json_path)
        except FileNotFoundError:
            self._broken = None
            return False
        except InputError as error:
            self._broken = error
            return False
        scene = parse_scene(json_path, content)
        for i in used:
            if not same_views(scene.views[i : i + 1], before[i : i + 1]):
                raise InputError(f"{json_path}, view {i}", "has changed since it was read", "more views at the end alone")
        self.scene, self._state, self._broken = scene, state, None
        return len(scene.views) > len(before)

    def check(self) -> None:
        """Check that the JSON was whole when it was last looked at.

        Raises:
            InputError: it was not.
        """
        if self._broken is not None:
            raise self._broken


def wait_for_scene(path: str | os.PathLike, wait_s: float) -> None:
    """Wait, `wait_s` seconds at most, until the JSON of a scene is there and whole, and lists a view.

    Packs and lists in text are not waited for.

    Args:
        path: the scene's folder or JSON, as the user gave it.
        wait_s: in seconds.
    """
    patience = Patience(wait_s)
    while not _is_whole(path) and patience.pause():
        pass


def _is_whole(path: str | os.PathLike) -> bool:
    found = find_path(path)
    if split_path(found) is not None or is_pack(found) or found.suffix.lower() == ".txt":
        return True
    try:
        content = read_json(found if found.suffix.lower() == ".json" else found / CAMERAS)
    except (InputError, FileNotFoundError):
        return False
    return content not in ([], {"frames": []})
