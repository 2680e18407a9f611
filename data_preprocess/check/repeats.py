"""Photos of a scene that repeat each other: copies in any size, format or tone, and photos from nearly the same place.

Copies are measured in `data_preprocess/capture/copies.py`; so are near duplicates, which moved by less than 0.75/500 of the side
and have detail and the same camera, since what is smooth and round looks alike from all sides. Measured: 50 frames of a walk, 0.5 s
apart, 64 renders of a figure and the four scenes of `data_example` have neither; the nearest neighbours leave 0.024 or more of the
variance, where near duplicates leave 0.004 or less (limit: 0.008).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data.problems.problem import mended_without, named
from data.scene_format import Scene
from data_preprocess.capture.copies import find_repeats
from data_preprocess.check.findings import Finding, finding_of
from data_preprocess.check.neighbours import at_one_place
from data_preprocess.check.photos import Photo

# Photos compared with each other at once; of longer lists, consecutive ones.
_MOST_COMPARED = 4096


def repeat_findings(scene: Scene, photos: Mapping[int, Photo]) -> list[Finding]:
    """Find photos that repeat others.

    Args:
        scene: with its views.
        photos: by the number of their view; views without a readable photo are absent.
    """
    first: dict[Path, int] = {}
    # The checks of cameras name views that share a file.
    photos = {i: photo for i, photo in photos.items() if first.setdefault(scene.views[i].file_path, i) == i}
    copies, near = _equal_pixels(photos), {}
    left = [i for i in photos if i not in copies]
    for start in range(0, len(left), _MOST_COMPARED):
        part = left[start : start + _MOST_COMPARED]
        found, almost = find_repeats([scene.views[i].file_path for i in part], [photos[i].reduced for i in part])
        copies |= {part[i]: part[j] for i, j in found.items()}
        # What is round looks the same from other places.
        near |= {part[i]: part[j] for i, j in almost.items() if at_one_place(scene.views, part[i], part[j])}
    findings = []
    if copies:
        found = f"has the {_originals(copies)} again, as it is or in another size, format or tone"
        wanted = "each photo once, as a copy among the inputs shows its target, and one of the two cameras is another photo's"
        findings.append(finding_of("set of copies", scene.json_path, mended_without(sorted(copies), found, wanted), "copy"))
    if near:
        found = f"has nearly the {_originals(near)}: what it shows moved by less than 1/600 of the side"
        wanted = (
            "photos that differ, as a target close to an input is scored too well; draw fewer frames of a video, or leave them out"
        )
        problem = mended_without(sorted(near), found, wanted)
        findings.append(finding_of("set of near duplicates", scene.json_path, problem, "near duplicate"))
    return findings


def _equal_pixels(photos: Mapping[int, Photo]) -> dict[int, int]:
    first: dict[bytes, int] = {}
    return {i: first[photo.digest] for i, photo in photos.items() if first.setdefault(photo.digest, i) != i}


def _originals(repeats: Mapping[int, int]) -> str:
    originals: Sequence[int] = [repeats[i] for i in sorted(repeats)]
    return f"photo{'s' * (len(originals) != 1)} of {named(originals)}"
