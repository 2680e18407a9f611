"""Controls of a browser's own camera: field of view, up direction, what dragging turns about, reset."""

import math

import numpy as np

from model.viewer.contract import BrowserParts
from model.viewer.window import window_fov

AXES = {
    "+x": (1.0, 0.0, 0.0), "-x": (-1.0, 0.0, 0.0), "+y": (0.0, 1.0, 0.0),
    "-y": (0.0, -1.0, 0.0), "+z": (0.0, 0.0, 1.0), "-z": (0.0, 0.0, -1.0),
}  # fmt: skip
OF_SCENE, OF_VIEW = "of the scene", "of this view"
CENTRE, IN_PLACE = "orbit the centre", "look around"
FOV_DEG = (10.0, 120.0)


class ViewPanel:
    """The controls."""

    def __init__(self, browser: BrowserParts) -> None:
        self._browser = browser
        gui = browser.client.gui
        self.up = browser.viewer.scene.up
        with gui.add_folder("View", order=2):
            self._fov = gui.add_slider("Field of view °", *FOV_DEG, 0.5, 50.0, hint="vertical, of the window")
            self._turn = gui.add_dropdown("Dragging", (CENTRE, IN_PLACE), hint="W A S D and Q E move, the wheel zooms")
            self._up = gui.add_dropdown("Up", (OF_SCENE, OF_VIEW, *AXES))
            reset = gui.add_button("Reset view", color="gray")
        # Without a client, it is this program that sets a control.
        self._fov.on_update(lambda event: event.client and self._zoom())
        self._turn.on_update(lambda event: event.client and browser.place(browser.pose.c2w))
        self._up.on_update(lambda event: event.client and self._turn_up())
        reset.on_click(lambda _: self.reset(smooth=True))

    def reset(self, smooth: bool = False) -> None:
        """Go to the first input, with the up direction and the way of turning that suit the scene."""
        scene = self._browser.viewer.scene
        self._turn.value = IN_PLACE if scene.normalised else CENTRE
        self._up.value = OF_SCENE
        self.up = scene.up
        view = scene.inputs[0]
        fov, aspect = scene.field_of_view(view)
        fov = window_fov(fov, self._browser.pose.aspect, aspect)
        if smooth:
            self._browser.fly(scene.c2w[view], fov)
        else:
            self._browser.place(scene.c2w[view], fov)

    def show_fov(self, fov: float) -> None:
        """Set the slider to a field of view in radians."""
        degrees = min(max(round(2 * math.degrees(fov)) / 2, FOV_DEG[0]), FOV_DEG[1])
        if self._fov.value != degrees:
            self._fov.value = degrees

    def turning_distance(self, c2w: np.ndarray) -> float:
        """Return the distance of the point that dragging turns about, on the viewing axis of a pose."""
        return self._browser.viewer.scene.turning_distance(c2w, self._turn.value == IN_PLACE)

    def recentre(self) -> None:
        """Put the point that dragging turns about back to its distance, where the wheel has brought the camera closer to it."""
        browser = self._browser
        camera, pose, scale = browser.client.camera, browser.pose, browser.viewer.scene.shown_scale
        wanted = self.turning_distance(pose.c2w)
        depth = float(np.linalg.norm(camera.look_at - camera.position)) / scale
        if self._turn.value == IN_PLACE and not 0.7 < depth / wanted < 1.4:
            camera.look_at = (pose.c2w[:3, 3] + pose.c2w[:3, 2] * wanted) * scale

    def _zoom(self) -> None:
        self._browser.client.camera.fov = math.radians(self._fov.value)
        self._browser.ask()

    def _turn_up(self) -> None:
        browser = self._browser
        if self._up.value == OF_SCENE:
            self.up = browser.viewer.scene.up
        elif self._up.value == OF_VIEW:
            self.up = -browser.pose.c2w[:3, 1]
        else:
            self.up = np.array(AXES[self._up.value])
        browser.client.camera.up_direction = self.up
