"""Usual mistakes in cameras, each with the cameras that would be right if it had been made.

Letters: v views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data.camera_geometry import OPENGL
from data.scene_format import Scene
from data_preprocess.capture.photo_names import natural_key
from data_preprocess.check.photos import shrunk_size

# Share of the image within which a principal point is in the middle; what turns y and z.
_MIDDLE = 0.05
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of a scene's photos, as these are matched.

    Args:
        intrinsics: (v, 3, 3) pixels of the reduced photo.
        w2c: (v, 4, 4).
        sizes: (v, 2) height and width of the reduced photo.
    """

    intrinsics: np.ndarray
    w2c: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True, eq=False)
class Mistake:
    """A mistake that may have been made.

    Args:
        cameras: those that are right then.
        found: what is so; follows "has".
        wanted: what would be right.
        flags: of adjust_cameras.py that mend it; none where it takes more.
    """

    cameras: Cameras
    found: str
    wanted: str
    flags: dict[str, Any] = field(default_factory=dict)


def stated_cameras(scene: Scene, sizes: Sequence[tuple[int, int]], most: int) -> Cameras:
    """Return the cameras as the scene states them, for photos of sizes (h, w) reduced to a longer side of `most` pixels."""
    reduced = np.array([shrunk_size(size, most) for size in sizes])
    intrinsics = np.zeros((len(reduced), 3, 3))
    for matrix, view, (h, w) in zip(intrinsics, scene.views, reduced, strict=True):
        matrix[:] = [
            [view.fx * w / view.w, 0, view.cx * w / view.w],
            [0, view.fy * h / view.h, view.cy * h / view.h],
            [0, 0, 1],
        ]
    return Cameras(intrinsics, np.stack([view.w2c for view in scene.views]), reduced)


def mistakes(scene: Scene, stated: Cameras) -> Iterator[Mistake]:
    """Yield the usual mistakes, simple ones first."""
    yield from _pose_mistakes(scene, stated)
    yield from _order_mistakes(scene, stated)
    yield from _image_mistakes(stated)
    yield from _swapped_intrinsics(stated)


def _pose_mistakes(scene: Scene, stated: Cameras) -> Iterator[Mistake]:
    w2c, c2w = stated.w2c, np.linalg.inv(stated.w2c)
    axes = "the axes x right, y down, z forward (OpenCV)"
    transposed, negated = w2c.copy(), w2c.copy()
    transposed[:, :3, :3] = w2c[:, :3, :3].transpose(0, 2, 1)
    negated[:, :3, 3] *= -1
    again = "convert the capture again"
    for poses, found, wanted, flags in (
        (_OPENGL @ w2c, "cameras with y up and z backward (OpenGL)", axes, {"axes": OPENGL}),
        (c2w, "c2w in the place of w2c", "camera from world", {"invert": True}),
        (
            _OPENGL @ c2w,
            "c2w in the place of w2c, with y up and z backward (OpenGL)",
            f"camera from world, {axes}",
            {"invert": True, "axes": OPENGL},
        ),
        (transposed, "w2c with transposed rotations", f"w2c = (R, t) of the same camera: {again}", {}),
        (negated, "w2c with negated translations", f"t = -R · position in w2c = (R, t): {again}", {}),
    ):
        yield Mistake(replace(stated, w2c=poses), found, wanted, flags)


def _order_mistakes(scene: Scene, stated: Cameras) -> Iterator[Mistake]:
    """Yield photos that have the camera of another one. An order gives, for each photo, the view whose camera is its own."""
    rows = np.arange(len(scene.views))
    orders = {"the next view": np.roll(rows, -1), "the view before": np.roll(rows, 1), "the list in reverse": rows[::-1]}
    # Names without leading zeros sort differently by letters, 1 10 2, and by numbers, here or where the cameras come from.
    for names in ([view.file_path.name for view in scene.views], [str(i) for i in rows], [str(i + 1) for i in rows]):
        by_letter = sorted(rows.tolist(), key=lambda i, names=names: names[i])
        by_number = sorted(rows.tolist(), key=lambda i, names=names: natural_key(names[i]))
        if by_letter != by_number:
            lettered, numbered = rows.copy(), rows.copy()
            lettered[by_number], numbered[by_letter] = by_letter, by_number
            orders.setdefault("the list sorted by letters (1, 10, 2)", lettered)
            orders.setdefault("the list sorted by numbers (1, 2, 10)", numbered)
    wanted = "each photo with its own camera: convert the capture again, or move the file_paths by that order"
    for words, order in orders.items():
        cameras = replace(stated, intrinsics=stated.intrinsics[order], w2c=stated.w2c[order])
        yield Mistake(cameras, f"photos with other photos' cameras (their own are those of {words})", wanted)


def _image_mistakes(stated: Cameras) -> Iterator[Mistake]:
    """Yield photos that were turned or mirrored; each is described by the matrix that turns a stored pixel back."""
    turns = {
        "mirrored photos": lambda h, w: [[-1, 0, w], [0, 1, 0], [0, 0, 1]],
        "photos mirrored top to bottom": lambda h, w: [[1, 0, 0], [0, -1, h], [0, 0, 1]],
        "photos upside down": lambda h, w: [[-1, 0, w], [0, -1, h], [0, 0, 1]],
    }
    if (np.abs(stated.sizes[:, 0] - stated.sizes[:, 1]) <= 1).all():
        turns["photos turned to the left by 90°"] = lambda h, w: [[0, -1, h], [1, 0, 0], [0, 0, 1]]
        turns["photos turned to the right by 90°"] = lambda h, w: [[0, 1, 0], [-1, 0, w], [0, 0, 1]]
    for found, matrix in turns.items():
        upright_from_stored = np.array([matrix(h, w) for h, w in stated.sizes], dtype=np.float64)
        cameras = replace(stated, intrinsics=np.linalg.inv(upright_from_stored) @ stated.intrinsics)
        yield Mistake(cameras, found, "photos as the cameras saw them: turn the files back, all alike")


def _swapped_intrinsics(stated: Cameras) -> Iterator[Mistake]:
    swapped = stated.intrinsics[:, [1, 0, 2]][:, :, [1, 0, 2]]
    found = "fx and cx in the place of fy and cy"
    yield Mistake(replace(stated, intrinsics=swapped), found, "fx and cx across, fy and cy down: convert the capture again")


def intrinsics_mistakes(scene: Scene, stated: Cameras, focal: float, size: float) -> list[Mistake]:
    """Return the mistakes of focal lengths, and of the size of the images that intrinsics are for.

    Args:
        scene, stated: its cameras.
        focal, size: the factors, of the focal lengths alone and of all intrinsics, that fit the photos best.
    """
    view = scene.views[0]
    pixels = f"pixels of {view.w}×{view.h} (w×h)"

    def stated_size(factor: float) -> dict[str, Any]:
        return {"intrinsics_size": (round(view.h / factor), round(view.w / factor))}

    # The script leaves principal points in the middle where they are.
    middle = max(abs(view.cx / view.w - 0.5), abs(view.cy / view.h - 0.5)) < _MIDDLE
    again = "; convert the capture again, or let colmap_format_converter.py --from_images find the cameras"
    times = f"{1 / focal:.2g} times too long" if focal < 1 else f"{focal:.2g} times too short"
    return [
        Mistake(
            scaled_focal(stated, focal),
            f"focal lengths about {times}",
            f"focal lengths in {pixels}, about {focal * view.fx:.3g} in view 0{'' if middle else again}",
            stated_size(focal) if middle else {},
        ),
        Mistake(
            scaled_intrinsics(stated, size),
            f"intrinsics of images of about {view.w / size:.0f}×{view.h / size:.0f} (w×h)",
            f"intrinsics in {pixels}",
            stated_size(size),
        ),
    ]


def scaled_focal(stated: Cameras, factor: float) -> Cameras:
    """Return cameras whose focal lengths are `factor` times as long."""
    intrinsics = stated.intrinsics.copy()
    intrinsics[:, [0, 1], [0, 1]] *= factor
    return replace(stated, intrinsics=intrinsics)


def scaled_intrinsics(stated: Cameras, factor: float) -> Cameras:
    """Return cameras whose intrinsics, stated for an image of another size, are `factor` times as large."""
    return replace(stated, intrinsics=np.diag([factor, factor, 1.0]) @ stated.intrinsics)
