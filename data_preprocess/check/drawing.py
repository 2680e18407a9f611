"""Pictures of a checked scene, and the folder of a list's pictures. Letters: v views."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from config.errors import InputError
from config.messages import counted
from data.files import write_text
from data.output.picture import camera_plot, contact_sheet
from data.scene_format import Scene
from data_preprocess.check.findings import Finding

# Photos on a contact sheet: evenly spaced ones, and besides them views that something was found of.
MOST_PHOTOS, MOST_MARKED = 48, 24
# File in a folder of pictures that names the list they are of.
_SOURCE = "source.txt"
# Folders that are tried for lists of one name.
_MOST_FOLDERS = 1000


def evenly(v: int) -> set[int]:
    """Return the numbers of the views that a contact sheet shows in any case."""
    return {int(i) for i in np.linspace(0, v - 1, min(v, MOST_PHOTOS)).round()}


def marks(findings: Sequence[Finding]) -> dict[int, str]:
    """Return the marks of views that something was found of, as captions have them, by the number of the view."""
    found: dict[int, list[str]] = defaultdict(list)
    for finding in findings:
        for view in finding.views:
            if finding.mark not in found[view]:
                found[view].append(finding.mark)
    return {view: ", ".join(found[view]) for view in sorted(found)}


def shown_marked(marked: Sequence[int]) -> list[int]:
    """Return the marked views that a contact sheet shows: all of them, or evenly spaced ones."""
    return [marked[int(i)] for i in np.linspace(0, len(marked) - 1, min(len(marked), MOST_MARKED)).round()]


def draw(scene: Scene, thumbnails: Mapping[int, np.ndarray], findings: Sequence[Finding], folder: Path) -> None:
    """Draw a contact sheet and the cameras of a scene.

    Args:
        scene: with its v views.
        thumbnails: (h, w, 3) uint8, by the number of the view.
        findings: of the scene; their views are marked.
        folder: for contact_sheet.png and cameras.png.
    """
    v, marked = len(scene.views), marks(findings)
    note = f"{counted(len(findings), 'finding')}; in this colour: {counted(len(marked), 'view')}" if marked else ""
    if thumbnails:
        views = sorted(thumbnails)
        captions = [f"{i} {f'{marked[i]}: ' if i in marked else ''}{scene.views[i].file_path.name}" for i in views]
        count = counted(v, "view") if len(views) == v else f"{len(views)} of {v} views"
        frames = [number for number, i in enumerate(views) if i in marked]
        photos = [thumbnails[i] for i in views]
        contact_sheet(folder / "contact_sheet.png", photos, captions, f"{scene.name}: {count}", frames, note)
    h, w = scene.views[0].h, scene.views[0].w
    # The plot takes a single image size.
    camera = np.array([(view.fx, view.fy, view.cx, view.cy) for view in scene.views])
    camera *= np.array([(w / view.w, h / view.h) * 2 for view in scene.views])
    c2w = np.stack([view.c2w for view in scene.views])
    camera_plot(folder / "cameras.png", c2w, camera, (h, w), title=f"{scene.name}: cameras", marked=marked.keys(), note=note)


def claim_folder(parent: Path, subject: Path) -> Path:
    """Return the folder for the pictures of a list or scene: the same in each run, and not that of another one of its name.

    Args:
        parent: of such folders.
        subject: a list without its suffix, or a scene's folder. The pictures' folder has its name; the second of one name also gets
            that of the folder it is in, later ones a number.

    A folder that cannot be written is returned all the same: drawing into it says why.
    """
    source, name = os.path.realpath(subject), os.path.basename(os.path.abspath(subject)) or "scene"
    names = [name, f"{name}_{Path(source).parent.name}", *(f"{name}_{number}" for number in range(2, _MOST_FOLDERS))]
    owners = {}
    for candidate in names:
        owners[candidate] = _owner(parent / candidate)
        if owners[candidate] is None:
            break
    chosen = next((candidate for candidate, owner in owners.items() if owner == source), candidate)
    if owners[chosen] is None:
        with contextlib.suppress(OSError, InputError):
            write_text(parent / chosen / _SOURCE, source)
    return parent / chosen


def _owner(folder: Path) -> str | None:
    """Return the list that a folder's pictures are of; None if it holds none."""
    try:
        return (folder / _SOURCE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
