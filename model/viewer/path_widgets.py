"""Widgets of the panel of camera paths."""

from dataclasses import dataclass

import viser

STEP_S, FPS = 2.0, 30
NO_KEYS: tuple[str, ...] = ("none",)
LEAST_SECONDS, MOST_SECONDS, MOST_SIDE = 0.1, 3600.0, 8192


@dataclass(frozen=True)
class PathWidgets:
    """The widgets; those of `keyed` are hidden while there is no keyframe."""

    text: viser.GuiMarkdownHandle
    add: viser.GuiButtonHandle
    keys: viser.GuiDropdownHandle[str]
    time: viser.GuiNumberHandle
    fov: viser.GuiNumberHandle
    edit: viser.GuiButtonGroupHandle
    move: viser.GuiCheckboxHandle
    seconds: viser.GuiNumberHandle
    tension: viser.GuiSliderHandle
    loop: viser.GuiCheckboxHandle
    at: viser.GuiSliderHandle
    play: viser.GuiButtonHandle
    fps: viser.GuiNumberHandle
    height: viser.GuiNumberHandle
    width: viser.GuiNumberHandle
    name: viser.GuiTextHandle
    save: viser.GuiButtonHandle
    download: viser.GuiButtonHandle
    load: viser.GuiUploadButtonHandle

    @property
    def keyed(self) -> tuple[viser.GuiInputHandle | viser.GuiButtonHandle | viser.GuiButtonGroupHandle, ...]:
        of_key = (self.keys, self.time, self.fov, self.edit, self.move)
        return (*of_key, self.seconds, self.tension, self.loop, self.at, self.play, self.save, self.download)


def add_path_widgets(gui: viser.GuiApi, image_size: tuple[int, int]) -> PathWidgets:
    """Add the widgets to the panel.

    Args:
        gui: of the server.
        image_size: (h, w) of frames to begin with.
    """
    h, w = image_size
    with gui.add_folder("Camera path", order=5, expand_by_default=False):
        return PathWidgets(
            text=gui.add_markdown(""),
            add=gui.add_button("Add this view", hint="as a keyframe, after the chosen one"),
            keys=gui.add_dropdown("Keyframe", NO_KEYS),
            time=gui.add_number("Time of it, s", 0.0, min=0.0, max=MOST_SECONDS, step=0.1),
            fov=gui.add_number("Field of view of it °", 50.0, min=1.0, max=170.0, step=0.5),
            edit=gui.add_button_group("Chosen one", ("Set to this view", "Delete")),
            move=gui.add_checkbox("Move it by its handle", False),
            seconds=gui.add_number("Duration, s", LEAST_SECONDS, min=LEAST_SECONDS, max=MOST_SECONDS, step=0.1),
            tension=gui.add_slider("Tension", 0.0, 1.0, 0.05, 0.0),
            loop=gui.add_checkbox("Loop", False),
            at=gui.add_slider("Preview", 0.0, 1.0, 0.001, 0.0),
            play=gui.add_button("Play", color="gray", hint="moves your camera along the path; again to stop"),
            fps=gui.add_number("Frames/s", FPS, min=1, max=240, step=1),
            height=gui.add_number("Height", h, min=1, max=MOST_SIDE, step=1),
            width=gui.add_number("Width", w, min=1, max=MOST_SIDE, step=1),
            name=gui.add_text("Name", "camera_path"),
            save=gui.add_button("Save", hint="on the machine that runs the viewer"),
            download=gui.add_button("Download", color="gray"),
            load=gui.add_upload_button("Load a JSON", color="gray", mime_type="application/json"),
        )
