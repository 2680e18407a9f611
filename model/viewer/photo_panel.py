"""A photo beside its rendering, with the PSNR of the rendering, and whether the photo is an input."""

import cv2
import numpy as np
import torch
from torch import Tensor

from config.errors import InputError, line_of
from data.output.video import to_uint8
from model.metric import psnr
from model.viewer.contract import BrowserParts
from model.viewer.viewed_scene import ViewedScene

ROWS, GAP = 160, 6


class PhotoPanel:
    """The panel, hidden until a photo is chosen."""

    def __init__(self, browser: BrowserParts) -> None:
        self._browser = browser
        self.view: int | None = None
        gui = browser.client.gui
        self._folder = gui.add_folder("Photo", order=1, visible=False)
        with self._folder:
            self._text = gui.add_markdown("")
            self._image = gui.add_image(np.full((ROWS, 2 * ROWS + GAP, 3), 255, np.uint8), label="Photo | rendering", format="png")
            self._switch = gui.add_button("Take out of the inputs")
            close = gui.add_button("Close", color="gray")
        self._switch.on_click(lambda _: self._browser.viewer.switch_input(self.view))
        close.on_click(lambda _: self.hide())

    def show(self, view: int) -> None:
        """Show a view's photo, if there is one, and its rendering, once that is done."""
        self.view = view
        self._browser.colour_cameras()
        if self._browser.viewer.scene.has_photos:
            self.update()

    def hide(self) -> None:
        """Show no photo."""
        self.view = None
        self._folder.visible = False
        self._browser.colour_cameras()

    def update(self) -> None:
        """Compare the chosen view once more, as after a reconstruction; the rendering is made in the render thread."""
        viewer, view = self._browser.viewer, self.view
        scene = viewer.scene
        if view is None or view >= len(scene) or scene.state is None or not scene.has_photos:
            return
        try:
            photo, fxfycxcy = scene.photo(view)
        except (InputError, OSError) as error:
            self._browser.fail(line_of(error))
            return
        viewer.loop.submit(lambda: self._compare(scene, view, photo, fxfycxcy))

    def _compare(self, scene: ViewedScene, view: int, photo: Tensor, fxfycxcy: Tensor) -> None:
        """Render a view at its photo's size and show both."""
        rendered = scene.render(fxfycxcy, torch.from_numpy(scene.c2w[view]).float(), scene.image_size)
        if view != self.view or scene is not self._browser.viewer.scene:  # another one has been chosen meanwhile
            return
        assert rendered is not None
        score = psnr(torch.from_numpy(rendered).movedim(-1, 0) / 255, photo).item()
        is_input = view in scene.inputs
        self._image.image = beside(to_uint8(photo), rendered)
        self._text.content = f"**View {view}**, {'an input' if is_input else 'not an input'}: {score:.2f} dB PSNR"
        self._switch.label = "Take out of the inputs" if is_input else "Put into the inputs"
        self._folder.visible = True


def beside(photo: np.ndarray, rendered: np.ndarray) -> np.ndarray:
    """Return two images (h, w, 3) side by side; small ones enlarged by squares for pixels, large ones reduced."""
    h = photo.shape[0]
    scale, filtering = (max(1, ROWS // h), cv2.INTER_NEAREST) if h < 2 * ROWS else (2 * ROWS / h, cv2.INTER_AREA)
    both = [cv2.resize(image, None, fx=scale, fy=scale, interpolation=filtering) for image in (photo, rendered)]
    return np.hstack([both[0], np.full((both[0].shape[0], GAP, 3), 255, np.uint8), both[1]])
