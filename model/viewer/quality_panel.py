"""Controls of the frames' sizes, shared by all browsers."""

from model.viewer.contract import ViewerParts
from model.viewer.render_loop import Quality

# Heights above what the weights were trained at, for those who ask: pictures get worse, see model/README.md.
BEYOND = 4
LEAST_ROWS = 16
FRAMES_PER_S = 20


def first_quality(trained_rows: int, patch: int) -> Quality:
    """Return the sizes to begin with: fine as trained, coarse at half of it until the target rate says otherwise."""
    least = max(patch, round(min(LEAST_ROWS, trained_rows) / patch) * patch)
    half = max(least, round(trained_rows / 2 / patch) * patch)
    return Quality(fine=trained_rows, coarse=half, target_fps=FRAMES_PER_S, least=least, step=patch)


class QualityPanel:
    """The controls.

    Args:
        viewer: what they belong to.
        trained_rows: height that the weights were trained at.
    """

    def __init__(self, viewer: ViewerParts, trained_rows: int) -> None:
        self._viewer, self._trained = viewer, trained_rows
        gui, quality = viewer.server.gui, viewer.loop.quality
        with gui.add_folder("Quality", order=4, expand_by_default=False):
            self._fine = gui.add_slider("Rows at rest", quality.least, trained_rows, quality.step, quality.fine)
            self._coarse_first = gui.add_checkbox("Coarser while moving", quality.coarse_first)
            self._automatic = gui.add_checkbox("… as the rate needs", quality.automatic)
            self._fps = gui.add_slider("Frames/s", 2, 60, 1, int(quality.target_fps))
            self._coarse = gui.add_slider("Rows moving", quality.least, trained_rows, quality.step, quality.coarse)
            self._beyond = gui.add_checkbox(
                f"More than {trained_rows} rows", False, hint="larger than the weights were trained at: pictures get worse"
            )
            self._fill = gui.add_checkbox("Fill the window", False, hint="wider than the weights were trained at")
            self._jpeg = gui.add_slider("JPEG quality", 30, 95, 5, 85)
        for control in (
            self._fine,
            self._coarse_first,
            self._automatic,
            self._fps,
            self._coarse,
            self._beyond,
            self._fill,
            self._jpeg,
        ):
            control.on_update(lambda event: event.client and self._apply())
        self._show_what_applies()

    @property
    def jpeg_quality(self) -> int:
        return int(self._jpeg.value)

    @property
    def fills_window(self) -> bool:
        """Whether pictures take the window's aspect instead of the one that the weights were trained at."""
        return self._fill.value

    def _apply(self) -> None:
        quality = self._viewer.loop.quality
        most = self._trained * (BEYOND if self._beyond.value else 1)
        for slider in (self._fine, self._coarse):
            if slider.max != most:
                slider.value = min(slider.value, most)
                slider.max = most
        quality.fine = int(self._fine.value)
        if quality.automatic and not self._automatic.value:  # by hand from where the rate has brought it
            self._coarse.value = quality.coarse
        quality.coarse_first, quality.automatic = self._coarse_first.value, self._automatic.value
        quality.target_fps = float(self._fps.value)
        quality.coarse = min(quality.coarse if quality.automatic else int(self._coarse.value), quality.fine)
        self._show_what_applies()
        self._viewer.loop.refresh()

    def _show_what_applies(self) -> None:
        quality = self._viewer.loop.quality
        self._automatic.disabled = not quality.coarse_first
        self._fps.visible = quality.coarse_first and quality.automatic
        self._coarse.visible = quality.coarse_first and not quality.automatic
