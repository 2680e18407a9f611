"""Camera paths drawn in the viewer: keyframes, the curve through them, preview, files. Shared by all browsers."""

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import viser
from viser import transforms

from config.errors import InputError, line_of
from model.keyframes import MOST_FRAMES, Keyframe, KeyframePath
from model.viewer.contract import BrowserParts, ViewerParts
from model.viewer.path_files import PathFiles, file_name
from model.viewer.path_widgets import LEAST_SECONDS, MOST_SECONDS, NO_KEYS, STEP_S, add_path_widgets
from model.viewer.window import picture_fov, window_fov

PREVIEW_FPS = 30
# Keyframes are at least this far apart in time, where there is room.
LEAST_STEP_S = 0.01


class PathPanel:
    """The controls, the curve and the keyframes' cameras.

    Args:
        viewer: what they belong to.
        files: where paths are saved.
    """

    def __init__(self, viewer: ViewerParts, files: PathFiles) -> None:
        self._viewer, self._files = viewer, files
        self._paths: dict[str, KeyframePath] = {}
        if files.first is not None:
            self._paths[viewer.scene.name] = files.first.moved(viewer.scene.from_capture)
        self._gizmo: viser.TransformControlsHandle | None = None
        self._playing = threading.Event()
        self._lock = threading.RLock()
        # The control that a browser has changed, with its value, while that is handled; and what controls were last set to.
        self._source: tuple[object, Any] | None = None
        self._filled: dict[str, Any] = {}
        self._chosen = 0
        self.widgets = c = add_path_widgets(viewer.server.gui, viewer.trained_size)
        c.add.on_click(self._safely(lambda event: self._add(self._browser(event))))
        c.keys.on_update(self._safely(lambda event: self._choose(c.keys.value, self._browser(event))))
        c.time.on_update(self._safely(lambda _: self._retime()))
        c.fov.on_update(self._safely(lambda _: self._rezoom()))
        c.edit.on_click(self._safely(lambda event: self._change(c.edit.value, self._browser(event))))
        c.move.on_update(self._safely(lambda _: self._draw()))
        c.seconds.on_update(self._safely(lambda _: self._stretch()))
        for control in (c.tension, c.loop, c.fps, c.height, c.width):
            control.on_update(self._safely(lambda _: self._reshape()))
        c.at.on_update(self._safely(lambda event: self._scrub(self._browser(event))))
        c.play.on_click(lambda event: self._play(self._browser(event)))
        c.save.on_click(self._safely(lambda _: self._save()))
        c.download.on_click(self._safely(lambda event: self._download(event.client)))
        c.load.on_upload(self._safely(lambda _: self._load(c.load.value)))

    def _safely(self, handle: Callable[[viser.GuiEvent], None]) -> Callable[[viser.GuiEvent], None]:
        """Return what handles the events of browsers one at a time; those of this program itself, without a client, do nothing."""

        def handle_alone(event: viser.GuiEvent) -> None:
            if event.client is not None:
                with self._lock:
                    self._source = event.target, event.target.value
                    try:
                        handle(event)
                    finally:
                        self._source = None

        return handle_alone

    def _fill(self, control: viser.GuiInputHandle, value: Any) -> None:
        """Set a control to what the path says, unless a browser has just changed it once more: that is handled next."""
        changed = self._filled.get(control.label) != value
        self._filled[control.label] = value
        if self._source is not None and control is self._source[0]:
            if control.value == self._source[1] != value:
                control.value = value
        elif changed and control.value != value:
            control.value = value

    @property
    def path(self) -> KeyframePath | None:
        """The path of the scene on the screen, in the frame of its state; None before there is a keyframe."""
        return self._paths.get(self._viewer.scene.name)

    def show(self) -> None:
        """Show the path of a newly opened scene."""
        with self._lock:
            self._chosen = 0
            self._show()

    def close(self) -> None:
        """Stop what is playing."""
        self._playing.clear()

    def _browser(self, event: viser.GuiEvent) -> BrowserParts | None:
        return next((browser for browser in self._viewer.browsers if browser.client is event.client), None)

    # Keyframes

    def _add(self, browser: BrowserParts | None) -> None:
        if browser is None:
            return
        key, path = self._key_of(browser), self.path
        if path is None:
            self._set(KeyframePath((key,), closing_s=STEP_S, **self._shape), 0)
            return
        keys = path.keyframes
        if self._chosen + 1 < len(keys):
            time_s = (keys[self._chosen].time_s + keys[self._chosen + 1].time_s) / 2
        else:
            time_s = keys[-1].time_s + STEP_S
        self._set(path.inserted(Keyframe(key.c2w, key.fov_deg, time_s), self._chosen), self._chosen + 1)

    def _key_of(self, browser: BrowserParts) -> Keyframe:
        pose = browser.pose
        return Keyframe(pose.c2w, math.degrees(picture_fov(pose.fov, pose.aspect, self._aspect)), 0.0)

    @property
    def _aspect(self) -> float:
        return self.widgets.width.value / self.widgets.height.value

    def _window_fov(self, fov_deg: float, browser: BrowserParts) -> float:
        """Return a browser's field of view, in radians, in which a frame of the path has its own."""
        return window_fov(math.radians(fov_deg), browser.pose.aspect, self._aspect)

    def _choose(self, label: str, browser: BrowserParts | None) -> None:
        path = self.path
        if path is None or label not in self.widgets.keys.options:
            return
        self._chosen = self.widgets.keys.options.index(label)
        self._show()
        if browser is not None:
            key = path.keyframes[self._chosen]
            browser.fly(key.c2w, self._window_fov(key.fov_deg, browser))

    def _change(self, what: str, browser: BrowserParts | None) -> None:
        path = self.path
        if path is None or browser is None:
            return
        if what == "Delete":
            if len(path.keyframes) == 1:
                del self._paths[self._viewer.scene.name]
                self._show()
            else:
                self._set(path.deleted(self._chosen), max(0, self._chosen - 1))
            return
        key = self._key_of(browser)
        self._set(path.replaced(self._chosen, Keyframe(key.c2w, key.fov_deg, path.keyframes[self._chosen].time_s)), self._chosen)

    def _retime(self) -> None:
        """Move the chosen keyframe in time, between its neighbours; the first one stays at 0."""
        path = self.path
        if path is None:
            return
        keys, i = path.keyframes, self._chosen
        if i > 0:
            before, after = keys[i - 1].time_s, keys[i + 1].time_s if i + 1 < len(keys) else MOST_SECONDS
            margin = min(LEAST_STEP_S, (after - before) / 2)
            time_s = min(max(float(self.widgets.time.value), before + margin), after - margin)
            path = path.replaced(i, Keyframe(keys[i].c2w, keys[i].fov_deg, time_s))
        self._set(path, i)

    def _rezoom(self) -> None:
        path = self.path
        if path is not None:
            key = path.keyframes[self._chosen]
            self._set(path.replaced(self._chosen, Keyframe(key.c2w, float(self.widgets.fov.value), key.time_s)), self._chosen)

    def _stretch(self) -> None:
        path = self.path
        if path is not None and path.seconds > 0:
            self._set(path.with_duration(float(self.widgets.seconds.value)), self._chosen)

    def _reshape(self) -> None:
        path = self.path
        if path is not None:
            self._set(dataclasses.replace(path, **self._shape), self._chosen)

    @property
    def _shape(self) -> dict[str, Any]:
        """What the widgets say of a path beside its keyframes, by the names of `KeyframePath`."""
        w = self.widgets
        size = int(w.height.value), int(w.width.value)
        return {"image_size": size, "fps": float(w.fps.value), "tension": float(w.tension.value), "loop": w.loop.value}

    def _set(self, path: KeyframePath, chosen: int) -> None:
        self._paths[self._viewer.scene.name] = path
        self._chosen = chosen
        self._show()

    # What is shown

    def _show(self) -> None:
        """Fill the controls and draw the path."""
        path = self.path
        for control in self.widgets.keyed:
            control.visible = path is not None and (control is not self.widgets.save or self._files.folder is not None)
        if path is None:
            self.widgets.text.content = "Move to a view and add it; the path goes smoothly through all that you add."
            self.widgets.keys.options = NO_KEYS
        else:
            keys = path.keyframes
            self.widgets.text.content = f"{len(keys)} keyframes, {path.seconds:.1f} s, {path.num_frames} frames"
            labels = tuple(f"{i + 1} · {key.time_s:.2f} s" for i, key in enumerate(keys))
            if self.widgets.keys.options != labels:
                self.widgets.keys.options = labels
            chosen, (h, w) = keys[self._chosen], path.image_size
            for widget, value in (
                (self.widgets.keys, labels[self._chosen]),
                (self.widgets.time, round(chosen.time_s, 3)),
                (self.widgets.fov, round(chosen.fov_deg, 2)),
                (self.widgets.seconds, min(max(round(path.seconds, 3), LEAST_SECONDS), MOST_SECONDS)),
                (self.widgets.tension, path.tension),
                (self.widgets.loop, path.loop),
                (self.widgets.fps, max(1, round(path.fps))),
                (self.widgets.height, h),
                (self.widgets.width, w),
            ):
                self._fill(widget, value)
        self._draw()

    def _draw(self) -> None:
        for browser in self._viewer.browsers:
            self.draw(browser)
        path, size = self.path, self._viewer.scene_panel.camera_size
        if self._gizmo is not None:
            self._gizmo.remove()
        self._gizmo = self._handle(path, size) if path is not None and self.widgets.move.value else None

    def draw(self, browser: BrowserParts) -> None:
        """Draw the path in a browser: its keyframes as cameras, and the curve."""
        with self._lock:
            browser.draw_path(self.path, self._chosen, 0.6 * self._viewer.scene_panel.camera_size)

    def _handle(self, path: KeyframePath, size: float) -> viser.TransformControlsHandle:
        """Draw the handle that moves the chosen keyframe."""
        key = path.keyframes[self._chosen]
        wxyz, scale = transforms.SO3.from_matrix(key.c2w[:3, :3]).wxyz, self._viewer.scene.shown_scale
        handle = self._viewer.server.scene.add_transform_controls(
            "/path/handle", scale=3 * size * scale, wxyz=wxyz, position=key.c2w[:3, 3] * scale
        )

        def moved(_: viser.TransformControlsEvent) -> None:
            c2w = np.eye(4)
            c2w[:3, :3], c2w[:3, 3] = transforms.SO3(handle.wxyz).as_matrix(), handle.position / scale
            with self._lock:
                now = self.path
                if now is None:
                    return
                self._set(now.replaced(self._chosen, Keyframe(c2w, key.fov_deg, key.time_s)), self._chosen)

        handle.on_drag_end(moved)
        return handle

    def choose(self, i: int, browser: BrowserParts) -> None:
        """Choose the i-th keyframe and fly a browser there."""
        with self._lock:
            self._choose_at(i, browser)

    def _choose_at(self, i: int, browser: BrowserParts) -> None:
        if i < len(self.widgets.keys.options):
            self._choose(self.widgets.keys.options[i], browser)

    # Preview

    def _scrub(self, browser: BrowserParts | None) -> None:
        path = self.path
        if path is not None and browser is not None:
            self._place(browser, path, self.widgets.at.value * path.seconds)

    def _place(self, browser: BrowserParts, path: KeyframePath, time_s: float) -> None:
        c2w, fov_deg = path.at(np.array([time_s]))
        browser.place(c2w[0], self._window_fov(float(fov_deg[0]), browser))

    def _play(self, browser: BrowserParts | None) -> None:
        """Move a browser's camera along the path, once; in the thread of the button's callback."""
        if self._playing.is_set():
            self._playing.clear()
            return
        path = self.path
        if path is None or browser is None:
            return
        self._playing.set()
        start = time.monotonic()
        while self._playing.is_set() and (at := time.monotonic() - start) < path.seconds and browser in self._viewer.browsers:
            self._place(browser, path, at)
            time.sleep(1 / PREVIEW_FPS)
        self._playing.clear()

    # Files

    @property
    def _to_save(self) -> KeyframePath | None:
        """The path in the capture's frame; None, and a line that says why, where there is none or it is too long for a file."""
        path = self.path
        if path is None or path.num_frames > MOST_FRAMES:
            self._viewer.fail(f"A path has 1 to {MOST_FRAMES} frames; this one {0 if path is None else path.num_frames}.")
            return None
        return path.moved(np.linalg.inv(self._viewer.scene.from_capture))

    def _save(self) -> None:
        path = self._to_save
        if path is None:
            return
        try:
            file = self._files.save(path, self.widgets.name.value)
        except (InputError, OSError) as error:
            self._viewer.fail(line_of(error))
            return
        for browser in self._viewer.browsers:
            browser.client.add_notification("Saved", f"{file}: render it with --camera_path {file}", auto_close_seconds=10)

    def _download(self, client: viser.ClientHandle | None) -> None:
        path = self._to_save
        if path is not None and client is not None:
            client.send_file_download(
                file_name(self.widgets.name.value), json.dumps(self._files.content(path), indent=1).encode(), save_immediately=True
            )

    def _load(self, file: viser.UploadedFile) -> None:
        try:
            path = self._files.read(file.content, file.name)
        except InputError as error:
            self._viewer.fail(line_of(error))
            return
        self._set(path.moved(self._viewer.scene.from_capture), 0)
