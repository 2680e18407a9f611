"""Scenes of the page of an evaluation run: sections by scene, their pictures in rows, each shared picture once."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from config.messages import counted
from data.output.html_section import PAGE_BYTES, Scores, Section, Target, page_bytes
from data.output.thumbnails import same_photo

# About what the page takes for a section besides its pictures, and for everything that is no scene.
_SECTION_TEXT, _FRAME = 5_000, 60_000
# Firefox takes data URLs of up to 32 MB.
_VIDEO_BYTES = 30_000_000


@dataclass(frozen=True)
class Input:
    """An input photo in a scene's strip, and the labels of the sections that have it, where not all do."""

    view: int
    photo: bytes
    users: list[str]


@dataclass(frozen=True)
class Nearest:
    """A photo of the nearest input, for `span` neighbouring sections with these labels; None where there is none."""

    photo: bytes | None
    scores: Scores
    span: int
    labels: list[str]


@dataclass(frozen=True)
class Row:
    """A target: its photo, and its renderings in all sections; None where a section shows none."""

    view: int
    photo: bytes
    cells: list[Target | None]
    nearest: list[Nearest]

    @property
    def has_nearest(self) -> bool:
        """Whether any section knows the nearest input."""
        return any(nearest.photo is not None for nearest in self.nearest)


@dataclass(frozen=True)
class Video:
    """A section's video: embedded, or a link relative to the page, with the reason."""

    path: Path
    label: str
    link: str
    why_linked: str

    @property
    def kind(self) -> str:
        """Its MIME type."""
        return "image/gif" if self.path.suffix.lower() == ".gif" else "video/mp4"


@dataclass(frozen=True)
class Scene:
    """All sections of a scene, by number of inputs, each with its label."""

    number: int
    name: str
    sections: list[Section]
    labels: list[str]
    strip: list[Input]
    rows: list[Row]
    videos: list[Video]

    @property
    def pictures(self) -> list[bytes]:
        """What the page embeds for the scene, videos apart."""
        cells = [cell for row in self.rows for cell in row.cells if cell is not None]
        nearest = [nearest.photo for row in self.rows for nearest in row.nearest if nearest.photo is not None]
        photos = [shown.photo for shown in self.strip] + [row.photo for row in self.rows]
        return photos + nearest + [picture for cell in cells for picture in (cell.rendering, cell.error)]

    @property
    def notes(self) -> list[str]:
        """Notes of its sections, each once."""
        return list(dict.fromkeys(section.note for section in self.sections if section.note))


def scenes_of(sections: Iterable[Section], folder: Path) -> list[Scene]:
    """Return the scenes in the order of their first sections.

    Args:
        sections: of the run.
        folder: of the page, for links to videos. Videos are embedded, in order, while the page stays within its limit.
    """
    groups: dict[str, list[Section]] = {}
    for section in sections:
        groups.setdefault(section.scene, []).append(section)
    scenes = [_scene(number, name, group) for number, (name, group) in enumerate(groups.items(), 1)]
    used = _FRAME + sum(map(page_bytes, (picture for scene in scenes for picture in scene.pictures)))
    used += _SECTION_TEXT * sum(len(scene.sections) for scene in scenes)
    for scene in scenes:
        for section, label in zip(scene.sections, scene.labels, strict=True):
            if section.video is not None:
                size = 4 * section.video.stat().st_size // 3
                fits = size <= _VIDEO_BYTES and used + size <= PAGE_BYTES
                why = "" if fits else "not in this file, which would get too large"
                used += 0 if why else size
                scene.videos.append(Video(section.video, label, link_to(section.video, folder), why))
    return scenes


def link_to(path: Path, folder: Path) -> str:
    """Return the relative URL of a file on a page in a folder; bytes that are not UTF-8 are kept."""
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))


def _scene(number: int, name: str, group: Sequence[Section]) -> Scene:
    group = sorted(group, key=lambda section: len(section.inputs))
    labels = [counted(len(section.inputs), "input") for section in group]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, choice {i}" for i, label in enumerate(labels, 1)]
    return Scene(number, name, group, labels, _strip(group, labels), _rows(group, labels), [])


def _strip(group: Sequence[Section], labels: Sequence[str]) -> list[Input]:
    """Return all photos that any section shows, the largest of each view, by view."""
    photos: dict[int, bytes] = {}
    for section in group:
        for view, photo in section.photos:
            photos[view] = max(photos.get(view, b""), photo, key=len)
    short = [label.removesuffix("s").removesuffix(" input") for label in labels]
    users = {view: [label for label, section in zip(short, group, strict=True) if view in section.inputs] for view in photos}
    return [Input(view, photos[view], [] if len(users[view]) == len(group) else users[view]) for view in sorted(photos)]


def _rows(group: Sequence[Section], labels: Sequence[str]) -> list[Row]:
    """Return a row per target view; more where sections differ in its photo, so that no rendering is beside another's photo."""
    found: list[tuple[bytes, list[Target | None]]] = []
    for i, section in enumerate(group):
        for target in section.targets:
            for n, (photo, cells) in enumerate(found):
                other = next(cell for cell in cells if cell is not None)
                if cells[i] is None and other.view == target.view and same_photo(photo, target.photo):
                    cells[i] = target
                    found[n] = max(photo, target.photo, key=len), cells
                    break
            else:
                found.append((target.photo, [target if j == i else None for j in range(len(group))]))
    rows = []
    for photo, cells in found:
        view = next(cell.view for cell in cells if cell is not None)
        rows.append(Row(view, photo, cells, _nearest(cells, labels)))
    return sorted(rows, key=lambda row: row.view)


def _nearest(cells: Sequence[Target | None], labels: Sequence[str]) -> list[Nearest]:
    """Return the nearest inputs of neighbouring sections, one for those that have the same."""

    def shown(pair: tuple[Target | None, str]) -> tuple:
        cell = pair[0]
        if cell is None:
            return (None, ())
        return cell.nearest, tuple((key, value) for key, value in cell.scores.items() if key.endswith("_nearest"))

    runs = [(key, [label for _, label in run]) for key, run in itertools.groupby(zip(cells, labels, strict=True), shown)]
    return [Nearest(photo, dict(scores), len(names), names) for (photo, scores), names in runs]
