"""Suspicious intrinsics: of another unit or image size, or unlike those of the other views. Letters: n views, h w pixels."""

import shlex
from collections import defaultdict

import numpy as np

from data.pinhole import centre_in_corner, fields_of_view
from data.problems.problem import SCRIPT, Problem, mended_without
from data.scene_format import Scene, View

# Fields of view outside this range are wrong intrinsics, not a lens (a strip of a photo is narrower in one direction); so are
# pixels less square than this.
NARROWEST_DEG, WIDEST_DEG, LEAST_SQUARE = 3.0, 160.0, 0.5
# Of the longer side, with the principal point in the middle: outside this range a capture is more often one whose focal lengths
# are those of another image size than one with such a lens. A lens of 50 degrees has 13 in an image of a fourth of the size.
NARROW_DEG, WIDE_DEG = 13.5, 124.0
# Principal points differ by more, as shares of the image, in crops of different places than in photos of several cameras.
CROPPED = 0.05
# Views are suspicious if they are this rare, and their focal length differs by this factor: the lenses of a phone differ by less.
RARE, OTHER_FOCAL, LEAST_VIEWS = 0.2, 4.0, 4


def intrinsics_problems(scene: Scene) -> list[Problem]:
    """Return the problems of a scene's intrinsics, first those of single views."""
    cropped = are_crops(scene)
    single = [replaced for i, view in enumerate(scene.views) for replaced in _view_problems(i, view, cropped)]
    if single:
        return single + _centre_problems(scene)
    return _centre_problems(scene) or _size_problems(scene) + _focal_problems(scene)


def are_crops(scene: Scene) -> bool:
    """Return whether views are crops of different places, which may have their principal point outside the image."""
    centre = np.array([(view.cx / view.w, view.cy / view.h) for view in scene.views])
    # Of the middle half of the views: a single one is an error.
    return bool(np.ptp(np.quantile(centre, [0.25, 0.75], axis=0), axis=0).max() > CROPPED)


def _view_problems(i: int, view: View, cropped: bool) -> list[Problem]:
    """Return the problems of one view; where views are crops of different places, a principal point may be outside."""
    problems = []
    fov = fields_of_view(view.w, view.h, view.fx, view.fy)
    if not NARROWEST_DEG <= max(fov) <= WIDEST_DEG:
        found = f"has a field of view of {fov[0]:.3g}×{fov[1]:.3g} degrees (w×h)"
        problems.append(Problem(found, f"{NARROWEST_DEG:g} to {WIDEST_DEG:g}: focal lengths are in pixels of w and h", (i,)))
    if not LEAST_SQUARE <= view.fx / view.fy <= 1 / LEAST_SQUARE:
        problems.append(Problem(f"has focal lengths {view.fx:g} and {view.fy:g}", "nearly square pixels", (i,)))
    centre = f"has the principal point ({view.cx:g}, {view.cy:g})"
    if not (cropped or (0 <= view.cx <= view.w and 0 <= view.cy <= view.h)):
        problems.append(Problem(f"{centre} outside {view.w}×{view.h} (w×h)", "it in the image", (i,)))
    elif centre_in_corner(view.w, view.h, view.cx, view.cy):
        wanted = "pixels from that corner, not shares or offsets"
        problems.append(Problem(f"{centre} in the corner of {view.w}×{view.h} (w×h)", wanted, (i,)))
    return problems


def _centre_problems(scene: Scene) -> list[Problem]:
    """Return the problem of principal points that are, in all views, the centre of an image of another size.

    A crop may have any principal point; but one on the diagonal, or at the centre of the turned image, in every view is unlikely.
    """
    centre = np.array([(view.cx, view.cy) for view in scene.views])
    size = np.array([(view.w, view.h) for view in scene.views])
    share, turned = centre / size, centre / size[:, ::-1]
    view = scene.views[0]
    found = f"has principal points of another image size, in view 0 ({view.cx:g}, {view.cy:g}) for {view.w}×{view.h} (w×h)"
    on_diagonal = (np.abs(share[:, 0] - share[:, 1]) < 0.01) & (np.abs(share[:, 0] - 0.5) > 0.15)
    if on_diagonal.all() and not any(centre_in_corner(view.w, view.h, view.cx, view.cy) for view in scene.views):
        w, h = round(2 * view.cx), round(2 * view.cy)
        same = np.ptp(size, axis=0).max() == 0 and np.ptp(share, axis=0).max() < 0.01
        wanted = f"intrinsics in pixels of w and h, not of about {w}×{h}"
        return [Problem(found, wanted, flags={"intrinsics_size": (h, w)} if same and min(h, w) > 0 else {})]
    oblong = size.max(axis=1) > 1.1 * size.min(axis=1)
    if (oblong & (np.abs(turned - 0.5) < 0.02).all(axis=1)).all():
        return [Problem(found, "w and h of the upright image, which look swapped")]
    return []


def _size_problems(scene: Scene) -> list[Problem]:
    """Return the problem of focal lengths that look like those of another image size, of all views together.

    A principal point in the middle says nothing about the size if it was computed from w and h.
    """
    fov = float(np.median([max(fields_of_view(view.w, view.h, view.fx, view.fy)) for view in scene.views]))
    centre = np.array([(view.cx / view.w, view.cy / view.h) for view in scene.views])
    if NARROW_DEG <= fov <= WIDE_DEG or np.abs(centre - 0.5).max() > CROPPED:
        return []
    other, lens = ("a larger", "a telephoto lens or crops") if fov < NARROW_DEG else ("a smaller", "a very wide lens")
    found = f"has fields of view of {fov:.3g} degrees (longer side, median), as with focal lengths in pixels of {other} image"
    command = f"python {SCRIPT} {shlex.quote(str(scene.json_path))} --intrinsics_size H W"
    wanted = f"those in pixels of w and h: {command}, with height and width of that image; or {lens}"
    return [Problem(found, wanted)]


def _focal_problems(scene: Scene) -> list[Problem]:
    """Return the problem of a few views whose focal length differs much from that of the others of their size."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, view in enumerate(scene.views):
        groups[view.w, view.h].append(i)
    problems = []
    for (w, h), views in groups.items():
        focal = np.array([scene.views[i].fx for i in views])
        ratio = focal / np.median(focal)
        other = np.maximum(ratio, 1 / ratio) > OTHER_FOCAL
        if len(views) < LEAST_VIEWS or not 0 < other.mean() <= RARE:
            continue
        few = tuple(views[k] for k in np.flatnonzero(other))
        have = "has" if len(few) == 1 else "have"
        found = (
            f"{have} a focal length {_factor(ratio[other])} that of the others of {w}×{h} (w×h), as in pixels of another image "
            "size, so that rays miss what the photo shows"
        )
        problems.append(mended_without(few, found, "one in pixels of w and h, or the others alone"))
    return problems


def _factor(ratio: np.ndarray) -> str:
    low, high = ratio.min(), ratio.max()
    return f"{low:.3g} times" if high < 1.05 * low else f"{low:.3g} to {high:.3g} times"
