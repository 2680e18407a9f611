"""Photos of an object that have a background: networks of objects are trained on objects cut out on white.

A photo is cut out if it has transparency, or if a quarter of its border is white (level 250 of 255). The exported objects of
`data_example` and of the generator are, and so is `gso_character`, also on white without transparency; photos on paper are not.
"""

from collections.abc import Mapping, Sequence

from data.problems.problem import Problem
from data.scene_format import Scene
from data_preprocess.check.findings import Finding, finding_of
from data_preprocess.check.photos import Photo

WHITE_IS_EXPECTED = "where an object's network expects the object on white"
_WANTED = "them cut out: --mask DIR or --white_background of the converters; or --kind scene"


def with_background(photos: Mapping[int, Photo]) -> tuple[int, ...]:
    """Return the views whose photos have a background.

    Args:
        photos: by the number of their view; views without a readable photo are absent.
    """
    return tuple(i for i in sorted(photos) if photos[i].background)


def background_finding(scene: Scene, views: Sequence[int], of: int) -> Finding:
    """Return the finding of an object's views with a background, of a number of photos."""
    some = 2 * len(views) <= of
    verb = "has" if some and len(views) == 1 else "have" if some else f"has {len(views)} of {of} photos with"
    problem = Problem(f"{verb} a background, {WHITE_IS_EXPECTED}", _WANTED, tuple(views) if some else ())
    return finding_of("photo with a background", scene.json_path, problem, "background")
