"""Page of an evaluation run: one HTML file with its scores, pictures, videos and settings, readable anywhere and without a network.

A run makes a section per scene and number of inputs with `make_section`; `write_html` writes them all.
"""

import base64
import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from config.messages import counted, is_plain
from data.files import replace_when_finished
from data.output import html_numbers
from data.output.html_scene import Scene, scenes_of
from data.output.html_section import Section, Target, make_section, section_budget
from data.output.metrics import PICTURES, SCORES
from data.output.picture import ERROR_SCALE, colour_table
from data.output.thumbnails import is_lossless, size_of

__all__ = ["Section", "Target", "make_section", "section_budget", "write_html"]

# Keys of a mean that are no scores.
_COUNTS = {"inputs", "scenes", "views"}
# Characters that turn the direction of writing.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Scenes named at the top for their low PSNR; fewer scenes than these are compared at a glance.
_WORST = 5


def write_html(
    path: str | os.PathLike,
    sections: Sequence[Section],
    about: Mapping[str, Any],
    means: Sequence[Mapping[str, Any]],
    curves: Sequence[Path],
) -> None:
    """Write the page. It shows what it is given, never what else is in the folder.

    Args:
        path: the HTML file.
        sections: all of the run; those of one scene differ in their inputs.
        about: settings and facts of the run, nested plain values, as in metrics.json. Of these `load`, `data_path`, `protocol`,
            `image_size`, `device`, `precision`, `machine`, `warnings`, `not_computed` and `date` are also said at the top.
        means: one mapping per number of inputs: `inputs` (None: it varies), `scenes`, `views`, and scores as in `Section`.
        curves: PNG files.

    Raises:
        OSError: a curve or video cannot be read, or the page not written.
    """
    path = Path(path)
    scenes = scenes_of(sections, path.parent)
    scored = {*SCORES} | {key for section in sections for key in section.scores}
    scores = [{key: mean[key] for key in mean if key in scored} for mean in means]
    others = [{key: mean[key] for key in mean if key not in scored | _COUNTS and _is_number(mean[key])} for mean in means]
    content = {
        "scenes": scenes,
        "about": about,
        "weights": PureWindowsPath(str(about.get("load") or "")).name,  # after the last slash of either kind
        "not_computed": about.get("not_computed") or {},
        "date": about.get("date") or datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "facts": _facts(about, sections),
        "warnings": _warnings(about, scenes),
        "means": list(zip(means, scores, others, strict=True)),
        "quantities": _names(others),
        "columns": html_numbers.score_columns([*scores, *(section.scores for section in sections)]),
        "worst": _worst(scenes),
        "curves": [curve.read_bytes() for curve in curves],
        "error_scale": ERROR_SCALE,
        "heat": ", ".join("rgb({}, {}, {})".format(*colour) for colour in colour_table()[::15].tolist()),
    }
    stream = _environment().get_template("report.html.jinja").stream(**content)
    stream.enable_buffering(100)
    with replace_when_finished(path) as temporary:
        stream.dump(os.fspath(temporary), encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(html_numbers, name) for name in ("caption", "cell_of", "figure", "groups_of", "quantity")}
    environment.globals |= {"own_columns": _own_columns, "names_of": _names}
    environment.globals |= {"data_url": _data_url, "counted": counted, "is_lossless": is_lossless}
    environment.globals |= {"shown_size": _shown_size, "stored": _stored}
    return environment


def _own_columns(scene: Scene) -> list[html_numbers.Column]:
    """Return the columns of a scene without those of baselines."""
    columns = html_numbers.score_columns(section.scores for section in scene.sections)
    return [column for column in columns if column.picture in (PICTURES[""], "")]


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of some rows, each once."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _printable(value: object) -> object:
    """Return a text with escapes for control characters, halves of surrogate pairs and turns of the direction of writing.

    Names of files may have any of them.
    """
    if type(value) is not str or _is_printable(value):
        return value
    return "".join(letter if _is_printable(letter) else ascii(letter)[1:-1] for letter in value)


def _is_printable(text: str) -> bool:
    return is_plain(text) and _DIRECTIONS.isdisjoint(text)


def _data_url(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}")


def _shown_size(picture: bytes, box_h: int, box_w: int) -> tuple[int, int, str, bool]:
    """Return how a picture is shown in a box: height, width, MIME type, and whether its pixels are enlarged as squares.

    Pictures without loss grow by whole factors; others fill the box.
    """
    h, w = size_of(picture)
    scale, lossless = min(box_h / h, box_w / w), is_lossless(picture)
    if lossless and scale >= 1:
        return h * int(scale), w * int(scale), "image/png", True
    return max(1, round(h * scale)), max(1, round(w * scale)), "image/png" if lossless else "image/jpeg", False


def _stored(picture: bytes) -> str:
    """Return how a picture is stored, in words."""
    h, w = size_of(picture)
    return f"{h}×{w} pixels, {'lossless' if is_lossless(picture) else 'JPEG'}"


def _facts(about: Mapping[str, Any], sections: Sequence[Section]) -> list[tuple[str, Any]]:
    """Return what was run, as far as it is known: (label, value)."""
    machine = about.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    size, counts = about.get("image_size"), sorted({len(section.inputs) for section in sections})
    facts = [
        ("weights", about.get("load")),
        ("data", about.get("data_path")),
        ("protocol", about.get("protocol")),
        ("image size", f"{size[0]}×{size[1]} (height × width)" if isinstance(size, Sequence) and len(size) == 2 else size),
        ("inputs", f"{counts[0]} to {counts[-1]}" if len(counts) > 8 else ", ".join(map(str, counts)) or None),
        ("device", machine.get("device", about.get("device"))),
        ("precision", about.get("precision", machine.get("precision"))),
        ("commit", about.get("commit", machine.get("commit"))),
    ]
    return [(label, value) for label, value in facts if value is not None]


def _warnings(about: Mapping[str, Any], scenes: Sequence[Scene]) -> list[tuple[str, list[Scene]]]:
    """Return the run's warnings and its scenes' notes, each once, with the scenes that it concerns."""
    texts = dict.fromkeys([*(about.get("warnings") or ()), *(note for scene in scenes for note in scene.notes)])
    return [(text, [scene for scene in scenes if text in scene.notes]) for text in texts]


def _worst(scenes: Sequence[Scene]) -> list[tuple[Scene, str, str]]:
    """Return the sections with the lowest PSNR: scene, label, figure; none where there are few sections."""
    known = [
        (section.scores.get("psnr"), scene, label)
        for scene in scenes
        for section, label in zip(scene.sections, scene.labels, strict=True)
    ]
    known = [(psnr, scene, label) for psnr, scene, label in known if psnr is not None]
    known.sort(key=lambda entry: entry[0])
    return [(scene, label, html_numbers.figure(psnr, 2)) for psnr, scene, label in known[:_WORST]] if len(known) > _WORST else []
