"""Problems of a scene's cameras, and a one-line description of a scene, both without opening images."""

from pathlib import Path

import numpy as np

from data.scene_format import Scene

# Fields of view outside this range are wrong intrinsics, not a lens; so are pixels less square than this.
NARROWEST_DEG, WIDEST_DEG, LEAST_SQUARE = 3.0, 160.0, 0.5


def camera_problems(scene: Scene) -> list[str]:
    """Return one line for each problem of a scene's cameras."""
    problems = []
    files: dict[Path, int] = {}
    poses: dict[bytes, int] = {}
    for i, view in enumerate(scene.views):
        where = f"{scene.json_path}, view {i}"
        first = files.setdefault(view.file_path, i)
        if first != i:
            problems.append(f"{where}: has the file of view {first}; wanted each once")
        first = poses.setdefault((view.w2c.round(9) + 0.0).tobytes(), i)
        if first != i:
            problems.append(f"{where}: has the pose of view {first}; wanted a different pose")
        fov = 2 * np.degrees(np.arctan([0.5 * view.w / view.fx, 0.5 * view.h / view.fy]))
        if not (fov.min() >= NARROWEST_DEG and fov.max() <= WIDEST_DEG):
            problems.append(
                f"{where}: has a field of view of {fov[0]:.3g}×{fov[1]:.3g} degrees (w×h); wanted {NARROWEST_DEG:g} to "
                f"{WIDEST_DEG:g}: focal lengths are in pixels of w and h"
            )
        if not LEAST_SQUARE <= view.fx / view.fy <= 1 / LEAST_SQUARE:
            problems.append(f"{where}: has focal lengths {view.fx:g} and {view.fy:g}; wanted nearly square pixels")
        if not (0 <= view.cx <= view.w and 0 <= view.cy <= view.h):
            problems.append(
                f"{where}: has the principal point ({view.cx:g}, {view.cy:g}) outside {view.w}×{view.h} (w×h); wanted it in "
                "the image"
            )
    position = np.stack([view.c2w[:3, 3] for view in scene.views])
    if len(scene.views) > 1 and np.ptp(position, axis=0).max() <= 1e-9 * np.abs(position).max():
        problems.append(f"{scene.json_path}: has all {len(scene.views)} cameras in one place; wanted different positions")
    return problems


def describe(scene: Scene) -> str:
    """Return a scene in one line: number and size of its views, field of view and spread of its cameras."""
    sizes = sorted({(view.w, view.h) for view in scene.views}, reverse=True)
    size = f"{sizes[0][0]}×{sizes[0][1]}" + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")
    position = np.stack([view.c2w[:3, 3] for view in scene.views])
    spread = "×".join(f"{side:.3g}" for side in np.ptp(position, axis=0))
    fov = np.degrees([2 * np.arctan(0.5 * view.w / view.fx) for view in scene.views])
    views = f"{len(scene.views)} view{'s' * (len(scene.views) != 1)}"
    return f"{scene.name}: {views}, {size} (w×h), field of view {np.median(fov):.1f}°, cameras spread over {spread}"
