"""Interfaces between the parts of the viewer: `Viewer` and `Browser` fulfil them, the panels use them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import viser

from model.keyframes import KeyframePath
from model.viewer.render_loop import RenderLoop
from model.viewer.viewed_scene import ViewedScene
from model.viewer.window import Pose


class SceneControls(Protocol):
    """The panel of the scene, as browsers use it."""

    @property
    def camera_size(self) -> float:
        """Size at which cameras are drawn, in the scene's units."""
        ...

    @property
    def drawn_views(self) -> list[int]:
        """The views whose cameras are drawn."""
        ...

    def colour(self, view: int, chosen: int | None) -> tuple[int, int, int]:
        """Return the colour of a view's camera in a browser that shows the photo of `chosen`."""
        ...

    def thumbnail(self, view: int) -> np.ndarray | None:
        """Return a view's photo made small, (h, w, 3) uint8, if there is one."""
        ...


class PathControls(Protocol):
    """The panel of the camera path, as browsers use it."""

    def draw(self, browser: "BrowserParts") -> None:
        """Draw the path in a browser."""
        ...

    def choose(self, i: int, browser: "BrowserParts") -> None:
        """Choose the i-th keyframe and fly a browser there."""
        ...


class QualityControls(Protocol):
    """The panel of the frames' sizes, as browsers use it."""

    @property
    def jpeg_quality(self) -> int: ...


class ViewerParts(Protocol):
    """The viewer, as its panels and browsers use it."""

    @property
    def server(self) -> viser.ViserServer: ...

    @property
    def scene(self) -> ViewedScene:
        """The scene on the screen."""
        ...

    @property
    def loop(self) -> RenderLoop: ...

    @property
    def trained_size(self) -> tuple[int, int]:
        """(h, w) that the weights were trained at."""
        ...

    @property
    def wanted_inputs(self) -> list[int]:
        """The inputs of the scene, or those of the reconstruction that is under way."""
        ...

    @property
    def browsers(self) -> "Sequence[BrowserParts]": ...

    @property
    def scene_panel(self) -> SceneControls: ...

    @property
    def quality_panel(self) -> QualityControls: ...

    @property
    def path_panel(self) -> PathControls: ...

    def aspect(self, pose: Pose) -> float:
        """Return the aspect of pictures for a window."""
        ...

    def open(self, i: int) -> None:
        """Open the i-th scene of the menu."""
        ...

    def reconstruct(self, scene: ViewedScene, inputs: list[int]) -> None:
        """Reconstruct a scene from some of its views, in the background."""
        ...

    def switch_input(self, view: int | None) -> None:
        """Take a view out of the inputs, or put it into them."""
        ...

    def redraw_cameras(self) -> None:
        """Draw the cameras in all browsers anew."""
        ...

    def size_cameras(self) -> None:
        """Draw the cameras in all browsers at the size of the slider."""
        ...

    def fail(self, line: str) -> None:
        """Show a problem in all browsers."""
        ...


class BrowserParts(Protocol):
    """A browser, as the panels use it."""

    @property
    def viewer(self) -> ViewerParts: ...

    @property
    def client(self) -> viser.ClientHandle: ...

    @property
    def pose(self) -> Pose:
        """What it looks at."""
        ...

    def ask(self) -> None:
        """Have the picture rendered once more."""
        ...

    def place(self, c2w: np.ndarray, fov: float | None = None) -> None:
        """Put the camera at a pose (4, 4), with a vertical field of view in radians."""
        ...

    def fly(self, c2w: np.ndarray, fov: float | None = None) -> None:
        """Move the camera to a pose smoothly."""
        ...

    def colour_cameras(self) -> None:
        """Colour the cameras by what they are."""
        ...

    def draw_path(self, path: KeyframePath | None, chosen: int, size: float) -> None:
        """Draw a camera path, its keyframes as cameras of a size."""
        ...

    def fail(self, line: str) -> None:
        """Show a problem."""
        ...
