"""Check of scenes in the unified format: cameras, photos, and whether they agree; with two pictures per scene.

    python data_preprocess/check_scenes.py data_example/objects_data_path.json

Finds damaged images, suspicious cameras, photos that repeat others, that are brighter, darker, of other colours or blurred, and
cameras that contradict the photos; names what mends them. Pictures, a contact sheet and a plot of the cameras, go to
outputs/check/LIST/SCENE/ by default, or to outputs/check/SCENE/ for a single scene's JSON. The exit code is 0 if nothing was found,
else 2 with one line per finding on standard error, or the first lines of each kind.
"""

# Letters: v views, h w pixels.

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted
from config.paths import find_path
from config.threads import cores
from data.problems.scene import KINDS, describe, find_problems, kind_of
from data.scene_format import Scene, View, read_scene
from data.scene_list import read_data_path
from data_preprocess.check.agreement import compare
from data_preprocess.check.backgrounds import WHITE_IS_EXPECTED, background_finding, with_background
from data_preprocess.check.drawing import claim_folder, draw, evenly, marks, shown_marked
from data_preprocess.check.findings import Finding, counts, finding_of, lines_of, with_command
from data_preprocess.check.looks import look_findings
from data_preprocess.check.photos import Photo, read_photo, read_thumbnail
from data_preprocess.check.repeats import repeat_findings
from data_preprocess.command import MOST_WORKERS, run_script
from data_preprocess.scene_folder import refuse_linked_folders


@dataclass(frozen=True, kw_only=True)
class Check:
    """Flags: what to check, and where pictures go."""

    data_path: Path = flag(..., "list of scenes, or one scene's JSON", group="scenes", positional=True, metavar="DATA_PATH.json")
    kind: str = flag(
        "auto",
        "object: poses are used as given; scene: they are normalised; auto: object if the cameras look at the origin",
        choices=KINDS,
        group="check",
    )
    output: Path | None = flag(None, "folder for the pictures", unset="outputs/check/LIST, or /SCENE")
    no_pictures: bool = flag(False, "check only")
    no_matching: bool = flag(False, "do not compare photos and cameras, which takes 1 to 10 s per scene")
    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, unset="one per core")


@dataclass(frozen=True)
class Checked:
    """What was found of a scene, and what its line says besides."""

    findings: list[Finding]
    note: str


def check_scene(
    scene: Scene,
    pool: ThreadPoolExecutor,
    pictures: Path | None = None,
    kind: str = "scene",
    matching: bool = True,
    certain: bool = True,
) -> Checked:
    """Check the cameras and photos of a scene and draw it.

    Args:
        scene: as checked by `read_scene`: rigid poses, numeric intrinsics, images in its folder.
        pool: threads that read images.
        pictures: folder for contact_sheet.png and cameras.png; None draws nothing.
        kind: of the scene: one of `KINDS`.
        matching: whether to compare photos with cameras.
        certain: whether the kind was given. An object's photos with a background are a finding only then, since a scene that was
            photographed from around has such cameras, too.
    """
    problems = find_problems(scene, kind)
    findings = [finding_of("camera problem", scene.json_path, problem, "camera") for problem in problems]
    photos, thumbnails, unreadable = _read(scene, pool, pictures is not None)
    findings += unreadable
    findings += [*repeat_findings(scene, photos), *look_findings(scene, photos)]
    backgrounds = with_background(photos) if kind_of(scene, kind) == "object" else ()
    if backgrounds and certain:
        findings.append(background_finding(scene, backgrounds, len(photos)))
    note = "photos and cameras not compared (--no_matching)"
    if any(problem.is_convention for problem in problems):
        note = "photos and cameras not compared (the cameras have another convention)"
    elif matching:
        agreement = compare(scene, photos, pool)
        findings += agreement.findings
        note = agreement.note
    if pictures is not None:
        try:
            refuse_linked_folders(pictures.parent, [pictures / "contact_sheet.png"])
            views = [i for i in shown_marked(list(marks(findings))) if i in photos and i not in thumbnails]
            thumbnails |= dict(zip(views, pool.map(read_thumbnail, [scene.views[i] for i in views]), strict=True))
            draw(scene, thumbnails, findings, pictures)
        except (InputError, OSError) as error:
            findings.append(Finding("picture that cannot be drawn", str(error)))
    if backgrounds and not certain:
        note = f"{note}; {len(backgrounds)} of {counted(len(photos), 'photo')} with a background, {WHITE_IS_EXPECTED}"
    return Checked(with_command(scene.json_path, findings), note)


def _read(
    scene: Scene, pool: ThreadPoolExecutor, thumbnails: bool
) -> tuple[dict[int, Photo], dict[int, np.ndarray], list[Finding]]:
    """Read all photos; return what is kept of them, thumbnails of some, both by the number of the view, and what is unreadable."""
    shown = evenly(len(scene.views)) if thumbnails else set()
    photos, small, findings = {}, {}, []
    results = pool.map(_read_view, scene.views, [i in shown for i in range(len(scene.views))])
    with tqdm(total=len(scene.views), desc=scene.name, unit="image", leave=False, dynamic_ncols=True) as progress:
        for i, (photo, thumbnail) in enumerate(results):
            if isinstance(photo, str):
                findings.append(Finding("unreadable photo", f"{scene.json_path}, view {i}: {photo}", (i,), "unreadable"))
            else:
                photos[i] = photo
            if thumbnail is not None:
                small[i] = thumbnail
            progress.update()
    return photos, small, findings


def _read_view(view: View, shown: bool) -> tuple[Photo | str, np.ndarray | None]:
    """Return a view's photo, or what is wrong with it, and its thumbnail if it is to be shown."""
    try:
        return read_photo(view, shown)
    except (InputError, OSError) as error:
        return str(error), None


def work(argv: Sequence[str] | None) -> list[str]:
    """Check all scenes of a list; return the problems."""
    given = read_command_line("check_scenes.py", __doc__, (Check,), argv)
    if "no_pictures" in given:
        refuse_without_effect(given, "with --no_pictures", ["output"])
    check = settings(Check, given)
    paths = read_data_path(check.data_path)
    single = paths == [Path(os.path.abspath(find_path(check.data_path)))]
    output = None if check.no_pictures else check.output or _default_folder(check.data_path, paths[0] if single else None)
    findings, lines, views = [], [], 0
    folders: set[str] = set()
    seen: set[Path] = set()
    progress = tqdm(paths, desc="scenes", unit="scene", leave=False, dynamic_ncols=True)
    with ThreadPoolExecutor(check.workers or cores()) as pool, progress:
        for i, path in enumerate(progress):
            if path in seen:
                line = f"{check.data_path}, entry {i}: is {path} again; wanted each scene once"
                findings.append(Finding("repeated scene", line))
                continue
            seen.add(path)
            try:
                scene = read_scene(path)
            except (InputError, OSError) as error:
                findings.append(Finding("unreadable scene", str(error)))
                continue
            folder = scene.name if scene.name not in folders else f"{i:03d}_{scene.name}"
            folders.add(folder)
            if output is not None:
                pictures = output if single and check.output is None else output / folder
            kind = kind_of(scene, check.kind)
            checked = check_scene(
                scene, pool, None if output is None else pictures, kind, not check.no_matching, check.kind != "auto"
            )
            findings += checked.findings
            lines.append(f"{describe(scene)}; checked as {'an object' if kind == 'object' else 'a scene'}; {checked.note}")
            views += len(scene.views)
    for line in lines:
        print(line)
    summary = ", ".join([counted(len(lines), "scene"), counted(views, "view"), counts(findings)])
    print(summary + ("" if output is None else f"; pictures in {output}"))
    return lines_of(findings, check.data_path)


def _default_folder(data_path: Path, scene: Path | None) -> Path:
    """Return the folder for the pictures of a list, or of a single scene."""
    return claim_folder(Path("outputs", "check"), find_path(data_path).with_suffix("") if scene is None else scene.parent)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("check_scenes.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
