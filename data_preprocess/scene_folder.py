"""Output folder of a scene: which files exist, continuation of an unfinished one; protection of what links lead to.

Letters: v views, h w pixels.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from config.errors import InputError, check_file
from data.files import write_text
from data.scene_format import CAMERAS, View, check_views, read_json, read_scene, same_views, write_scene

# Mark in the folder of a scene that is not finished.
UNFINISHED = ".unfinished"


def rendered_views(folder: Path, c2w: np.ndarray, fxfycxcy: np.ndarray, image_size: tuple[int, int]) -> list[View]:
    """Return the views of a rendered scene, with numbered PNGs in `images`.

    Args:
        folder: of the scene.
        c2w, fxfycxcy: (v, 4, 4) world from camera, OpenCV axes, and (v, 4) in pixels.
        image_size: (h, w).
    """
    w2c = np.linalg.inv(c2w)
    w2c[:, 3] = (0, 0, 0, 1)
    h, w = image_size
    cameras = enumerate(zip(fxfycxcy, w2c, strict=True))
    return [View(folder / "images" / f"{i:05d}.png", w, h, *camera.tolist(), pose) for i, (camera, pose) in cameras]


def refuse_linked_folders(output: Path, files: Iterable[Path]) -> None:
    """Check that no folder between an output folder and files to write below it is a link: they would be written elsewhere.

    A link in the place of a file is harmless: a new file is renamed over it.

    Args:
        output: named by the user, who may have made a link of it.
        files: below `output`, which need not exist.

    Raises:
        InputError: a folder is a link.
    """
    below = {folder for file in files if file.is_relative_to(output) for folder in file.relative_to(output).parents}
    for folder in sorted(output / folder for folder in below - {Path()}):
        if folder.is_symlink():
            found = f"is a link to {os.readlink(folder)}"
            raise InputError(folder, found, "a folder: what is written there would go elsewhere")


class SceneFolder:
    """A scene's images and JSON on disk. The JSON is written last: a folder that has it was finished once.

    Until then, a mark in the folder records what the existing images were made from.

    Args:
        folder: named after the scene.
        views: all views of the scene, with the files of their images.
    """

    def __init__(self, folder: Path, views: Sequence[View]) -> None:
        self.json_path, self.views = folder / CAMERAS, views
        self._mark = folder / UNFINISHED

    def finished(self) -> bool:
        """Return whether the scene is complete.

        Raises:
            InputError: it exists with other cameras.
        """
        return self._has_json() and not self._missing()

    def begin(self, made_from: str) -> list[int]:
        """Return the views whose image is missing; images of another, unfinished scene are deleted.

        Args:
            made_from: distinguishes the images of one scene from those of another with the same cameras.

        Raises:
            InputError: the folder holds a scene with other cameras, or images that belong to no scene and no mark; it, or one in
                it, is a link; or a view breaks the format. Nothing has been written then.
        """
        has_json = self._has_json()
        if not has_json or self._missing():
            self._check()
        if not has_json:
            self._start(made_from)
        return self._missing()

    def finish(self, long_lrm: bool = False) -> None:
        """Write the JSON, unless it exists in this spelling, and remove the mark."""
        if not self.json_path.exists() or isinstance(read_json(self.json_path), dict) != long_lrm:
            self._check()
            write_scene(self.json_path, self.views, long_lrm=long_lrm)
        self._mark.unlink(missing_ok=True)

    def _start(self, made_from: str) -> None:
        """Mark the folder; keep images with the same mark, but not links, which no script makes."""
        marked = os.path.lexists(self._mark)
        if marked:
            check_file(self._mark, "a file of this program")
        same = marked and self._mark.read_bytes() == made_from.encode()
        for view in self.views:
            if not marked and view.file_path.exists() and not view.file_path.is_symlink():
                raise InputError(view.file_path, "is an image of no finished scene", "another --output or the folder deleted")
        for view in self.views:
            if not same or view.file_path.is_symlink():
                view.file_path.unlink(missing_ok=True)
        if not same:
            write_text(self._mark, made_from)

    def _check(self) -> None:
        files = [self.json_path, *(view.file_path for view in self.views)]
        refuse_linked_folders(self.json_path.parent.parent, files)
        check_views(self.json_path, self.views)

    def _has_json(self) -> bool:
        if not self.json_path.exists():
            return False
        if not same_views(read_scene(self.json_path).views, self.views):
            found = "holds other cameras than this input and these flags give"
            raise InputError(self.json_path, found, "the same ones: choose another --output or delete the folder")
        return True

    def _missing(self) -> list[int]:
        return [i for i, view in enumerate(self.views) if not view.file_path.exists()]
