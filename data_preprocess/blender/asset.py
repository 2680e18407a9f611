"""Objects to render: where their cameras stand, which files they have, what of them is there, and whether that is whole.

Letters: v views, h w pixels.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from config.errors import InputError
from data.files import write_text
from data.scene_format import View, read_scene, same_views, write_scene
from data.synthetic.cameras import REFERENCE_HALF_FOV, RING_ELEVATIONS_DEG, intrinsics, look_at
from data_preprocess.blender.pool import BlenderPool
from data_preprocess.command import one_line

RADIUS = (1.7, 3.0)
RING_VIEWS, RING_RADIUS = 16, 2.7
# Says what a half-done object is rendered from; it goes when the object's JSON is there.
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Render:
    """How to render objects: flags, letter for letter."""

    num_views: int
    rings: bool
    image_size: tuple[int, int]
    seed: int
    samples: int
    denoise: bool
    output: Path


def cameras(render: Render, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose the cameras of an object: a function of the seed and its name alone.

    Returns:
        c2w (v, 4, 4), OpenCV axes, and fxfycxcy (v, 4), float64: the random views, then the rings from the lowest up. All look at
        the origin; the field of view is 50 degrees along the image's shorter side.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([render.seed, int.from_bytes(digest[:8], "little")])
    direction = rng.normal(size=(render.num_views, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position = direction * rng.uniform(*RADIUS, size=(render.num_views, 1))
    if render.rings:
        elevation = np.repeat(np.radians(RING_ELEVATIONS_DEG), RING_VIEWS)
        azimuth = np.tile(np.arange(RING_VIEWS) * (2 * math.pi / RING_VIEWS), len(RING_ELEVATIONS_DEG))
        level = np.cos(elevation)
        ring = RING_RADIUS * np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1)
        position = np.concatenate([position, ring])
    c2w = look_at(position, np.zeros_like(position))
    return c2w, intrinsics(REFERENCE_HALF_FOV, len(position), render.image_size)


class Asset:
    """An object to render: its cameras, its files, and what of them is there."""

    def __init__(self, render: Render, name: str) -> None:
        self.render, self.name = render, name
        self.folder = render.output / name
        self.json_path = self.folder / "opencv_cameras.json"
        self.c2w, self.fxfycxcy = cameras(render, name)
        self.files = [self.folder / "images" / f"{i:05d}.png" for i in range(len(self.c2w))]
        h, w = render.image_size
        w2c = np.linalg.inv(self.c2w)
        w2c[:, 3] = (0, 0, 0, 1)
        self.views = [View(file, w, h, *row.tolist(), pose) for file, row, pose in zip(self.files, self.fxfycxcy, w2c, strict=True)]

    def finished(self) -> bool:
        """Tell whether all of it is there.

        Raises:
            InputError: it is there with other cameras.
        """
        if not self.json_path.exists():
            return False
        if not same_views(read_scene(self.json_path).views, self.views):
            found = "holds other cameras than these flags give"
            raise InputError(self.json_path, found, "the same ones: choose another --output or delete the folder")
        return all(file.exists() for file in self.files)

    def make(self, glb: Path, pool: BlenderPool, on_view: Callable[[int], None]) -> None:
        """Render the views that are missing, check all, and write the JSON.

        Args:
            glb: the object's file.
            pool: what renders.
            on_view: called with the number of views that are there, or there now.

        Raises:
            OSError, InputError: it cannot be rendered; the message names the file.
        """
        mark, made_from = self.folder / _UNFINISHED, self._made_from(glb)
        left = range(len(self.files))
        if self.json_path.exists() or (mark.exists() and mark.read_text(encoding="utf-8") == made_from):
            left = [i for i in left if not self.files[i].exists()]
        write_text(mark, made_from)
        on_view(len(self.files) - len(left))
        views = [
            {"png": str(self.files[i].absolute()), "fxfycxcy": self.fxfycxcy[i].tolist(), "c2w": self.c2w[i].tolist(), "seed": i}
            for i in left
        ]
        options = {"samples": self.render.samples, "denoise": self.render.denoise}
        if views:
            pool.render(glb, {"size": self.render.image_size, "views": views, **options}, on_view)
        if not self._check():
            raise InputError(glb, "shows nothing in any view", "an object that is not transparent")
        write_scene(self.json_path, self.views)
        mark.unlink()

    def _check(self) -> bool:
        """Return whether anything is to be seen; pictures that are not as they should be are deleted, for the next call."""
        seen, problems = False, []
        for file in self.files:
            try:
                seen |= check_image(file, self.render.image_size)
            except InputError as error:
                file.unlink(missing_ok=True)
                problems.append(error)
        if problems:
            raise problems[0]
        return seen

    def _made_from(self, glb: Path) -> str:
        state = glb.stat()
        return repr((str(glb.absolute()), state.st_size, state.st_mtime_ns, self.render.samples, self.render.denoise,
                     hashlib.sha256(self.c2w.tobytes() + self.fxfycxcy.tobytes()).hexdigest()))  # fmt: skip


def check_image(file: Path, image_size: tuple[int, int]) -> bool:
    """Return whether anything is to be seen in a rendered picture.

    Raises:
        InputError: it is damaged, or not RGBA of this size (h, w).
    """
    h, w = image_size
    try:
        with Image.open(file, formats=["PNG"]) as image:
            found = image.mode, image.size
            alpha = image.getchannel("A").getextrema() if image.mode == "RGBA" else (0, 0)
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything
        raise InputError(file, f"is a damaged picture ({one_line(error)})", "a whole PNG") from None
    if found != ("RGBA", (w, h)):
        raise InputError(file, f"is {found[0]} of {found[1][0]}×{found[1][1]} (w×h)", f"RGBA of {w}×{h}")
    return alpha[1] > 0
