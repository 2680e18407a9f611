"""Controls of the scene and its inputs, shared by all browsers."""

import threading

import cv2
import numpy as np

from config.errors import InputError, line_of
from data.output.video import to_uint8
from model.viewer.contract import ViewerParts

THUMBNAIL_PX = 96
# Photos of cameras that are drawn; of more, only the outlines are.
MOST_THUMBNAILS, MOST_OTHERS = 128, 200
INPUT, TAKEN_OUT, OTHER, CHOSEN = (29, 98, 176), (150, 150, 150), (96, 150, 80), (222, 120, 20)
# The slider of the number of inputs is read once it has rested for so long.
SETTLED_S = 0.4


class ScenePanel:
    """The controls.

    Args:
        viewer: what they belong to.
        names: of the scenes in the menu.
    """

    def __init__(self, viewer: ViewerParts, names: list[str]) -> None:
        self._viewer = viewer
        self._thumbnails: dict[int, np.ndarray | None] = {}
        self._taken_out: set[int] = set()
        self._settling: threading.Timer | None = None
        gui = viewer.server.gui
        self._folder = gui.add_folder("Scene", order=0)
        with self._folder:
            self._menu = gui.add_dropdown("Scene", tuple(names), visible=len(names) > 1)
            self._text = gui.add_markdown("")
            self._number = gui.add_slider("Inputs", 1, 2, 1, 1)
            self._bar = gui.add_progress_bar(0.0, visible=False)
            self._inputs = gui.add_checkbox("Input cameras", True)
            self._others = gui.add_checkbox("Other cameras", False, hint="photos that are not inputs, to compare with")
            self._size = gui.add_slider("Camera size", 0.02, 0.6, 0.02, 0.08, hint="in units of the inputs' spread")
        self._menu.on_update(lambda event: event.client and viewer.open(names.index(self._menu.value)))
        self._number.on_update(lambda event: event.client and self._settle())
        self._inputs.on_update(lambda _: viewer.redraw_cameras())
        self._others.on_update(lambda _: viewer.redraw_cameras())
        self._size.on_update(lambda _: viewer.size_cameras())

    def show(self) -> None:
        """Show a newly opened scene."""
        scene = self._viewer.scene
        self._thumbnails.clear()
        self._taken_out.clear()
        self._number.max = max(2, len(scene))
        self._number.visible = scene.has_photos
        self._others.visible = scene.has_photos and len(scene) > len(scene.inputs)
        self.tell()

    def tell(self, problem: str = "") -> None:
        """Write what the inputs are, how they were reconstructed, and why there are no others; set the slider to their number."""
        scene = self._viewer.scene
        if self._menu.value != scene.name and scene.name in self._menu.options:
            self._menu.value = scene.name
        kind = "scene" if scene.normalised else "object"
        photos = "" if scene.has_photos else ", without photos"
        about = f"{scene.name}: {kind}, {len(scene.inputs)} of {len(scene)} views are inputs{photos}"
        quick = "quick" if problem else "quick; exact follows"
        how = "exact" if scene.exact else quick
        # With photos always this line too, so that the panel does not jump.
        lines = [about] + ([f"reconstruction: {how if scene.state else 'under way'}"] if scene.has_photos else [])
        self._text.content = "  \n".join([*lines, f"⚠ {problem}"] if problem else lines)
        if self._settling is None or self._settling.finished.is_set():  # else someone has just moved it
            self._number.value = len(scene.inputs)

    def progress(self, done: float | None) -> None:
        """Show how much of a reconstruction is done; None: there is none."""
        self._bar.visible = done is not None
        if done is not None:
            self._bar.value = 100 * done

    @property
    def camera_size(self) -> float:
        return self._size.value * self._viewer.scene.spread

    @property
    def drawn_views(self) -> list[int]:
        """The views whose cameras are drawn: inputs and those taken out, and others, evenly thinned if there are very many."""
        scene = self._viewer.scene
        inputs = sorted({*scene.inputs, *self._taken_out}) if self._inputs.value else []
        others = [view for view in range(len(scene)) if view not in scene.inputs and view not in self._taken_out]
        step = -(-len(others) // MOST_OTHERS)
        return inputs + (others[:: max(1, step)] if self._others.value else [])

    def colour(self, view: int, chosen: int | None) -> tuple[int, int, int]:
        """Return the colour of a view's camera in a browser that shows the photo of `chosen`."""
        if view == chosen:
            return CHOSEN
        if view in self._viewer.scene.inputs:
            return INPUT
        return TAKEN_OUT if view in self._taken_out else OTHER

    def thumbnail(self, view: int) -> np.ndarray | None:
        """Return a view's photo, (h, w, 3) uint8, made small; None where there is none, or too many."""
        scene = self._viewer.scene
        if not scene.has_photos or (view not in self._thumbnails and len(self._thumbnails) >= MOST_THUMBNAILS):
            return None
        if view not in self._thumbnails:
            try:
                photo = to_uint8(scene.photo(view)[0])
            except (InputError, OSError) as error:
                self._viewer.fail(line_of(error))
                photo = None
            if photo is not None and max(photo.shape) > THUMBNAIL_PX:
                scale = THUMBNAIL_PX / max(photo.shape[:2])
                photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            self._thumbnails[view] = photo
        return self._thumbnails[view]

    def switch_input(self, view: int) -> None:
        """Take a view out of the inputs, or put it into them, and reconstruct the scene again."""
        scene = self._viewer.scene
        inputs = set(self._viewer.wanted_inputs) ^ {view}
        if not inputs:
            self._viewer.fail("The last input cannot be taken out.")
            return
        self._taken_out = (self._taken_out | {view}) - inputs
        self._viewer.reconstruct(scene, sorted(inputs))

    def _settle(self) -> None:
        """Choose as many inputs as the slider says, once it rests."""
        if self._settling is not None:
            self._settling.cancel()
        self._settling = threading.Timer(SETTLED_S, self._choose)
        self._settling.daemon = True
        self._settling.start()

    def _choose(self) -> None:
        scene = self._viewer.scene
        if scene.photos is None:
            return
        try:
            inputs = scene.photos.choose(int(self._number.value))
        except InputError as error:
            self._viewer.fail(line_of(error))
            return
        self._taken_out.clear()
        self._viewer.reconstruct(scene, inputs)

    def close(self) -> None:
        """Drop what is still to be done."""
        if self._settling is not None:
            self._settling.cancel()
