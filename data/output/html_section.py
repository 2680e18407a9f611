"""Sections of the page of an evaluation run: a scene with one choice of inputs, its pictures encoded within a budget of bytes.

Sections go between processes and stay in memory until the page is written, of at most about `PAGE_BYTES`.

Letters: h w pixels. Images are (h, w, 3) uint8, sRGB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.output.picture import MOST_INPUTS, MOST_TARGETS, evenly
from data.output.thumbnails import LOSSLESS, Step, encode, encode_error, finest, steps_for

PAGE_BYTES = 64_000_000
# Part of the page that pictures may take; videos get what is left.
PICTURES_PART = 0.8
# Most bytes of a section, however few there are.
SECTION_BYTES = 4_000_000
# Bytes that a picture takes on the page besides its own.
MARKUP = 400
# Bytes from which a section has these numbers of inputs and targets at most.
KEPT = ((200_000, MOST_INPUTS, MOST_TARGETS), (80_000, 8, 4), (0, 6, 3), (0, 4, 2))

Photo = np.ndarray
Scores = Mapping[str, float | None]
NewTarget = tuple[int, Photo, Photo, Photo | None, Scores]


@dataclass(frozen=True)
class Target:
    """A target of a section.

    Attributes:
        view: position in the scene.
        photo, rendering, error: encoded pictures.
        nearest: encoded photo of the nearest input; None where that is unknown.
        scores: of the rendering (`psnr`, `ssim`, `lpips`, `psnr_box`) and of baselines: with `_nearest`, of the nearest input's
            photo in its place; with `_mean`, of the mean of the inputs. None, or absent: not computed.
    """

    view: int
    photo: bytes
    rendering: bytes
    error: bytes
    nearest: bytes | None
    scores: dict[str, float | None]

    @property
    def pictures(self) -> list[bytes]:
        """All its pictures."""
        return [self.photo, self.rendering, self.error, *([] if self.nearest is None else [self.nearest])]


@dataclass(frozen=True)
class Section:
    """A scene with one choice of inputs.

    Attributes:
        scene: its name: any text.
        inputs: positions in the scene.
        photos: (view, encoded picture) of the inputs that are shown.
        targets: those that are shown.
        num_targets: how many there are.
        scores: means over all of them; see `Target`.
        speed: measured quantities; the end of a name is its unit (`_s`, `_per_s`, `_bytes`).
        note: how the run departs from what the weights were trained with; empty if it does not.
        video: file that this run wrote; None if none.
    """

    scene: str
    inputs: list[int]
    photos: list[tuple[int, bytes]]
    targets: list[Target]
    num_targets: int
    scores: dict[str, float | None]
    speed: dict[str, float]
    note: str
    video: Path | None


def section_budget(num_sections: int) -> int:
    """Return the bytes that a section of a page with this many may take."""
    return min(SECTION_BYTES, int(PICTURES_PART * PAGE_BYTES / max(1, num_sections)))


def make_section(
    scene: str,
    inputs: Sequence[int],
    photos: Sequence[Photo],
    targets: Sequence[NewTarget],
    num_targets: int,
    scores: Scores,
    speed: Mapping[str, float],
    note: str,
    video: Path | None,
    budget: int,
) -> Section:
    """Encode the pictures of a section so that it takes about `budget` bytes of the page at most.

    Images of at most 256×256 are stored without loss where the budget allows it, others as JPEG of the largest size that it allows,
    of at least 128 pixels. Of small budgets fewer inputs and targets are kept, evenly spaced ones.

    Args:
        scene, inputs, num_targets, scores, speed, note, video: see `Section`.
        photos: of all inputs.
        targets: (view, photo, rendering, photo of the nearest input if known, scores).
        budget: see `section_budget`.
    """
    kept_photos, kept_targets = [], []
    for most_inputs, most_targets in ((inputs, targets) for least, inputs, targets in KEPT if budget >= least):
        some_photos = [(inputs[i], photos[i]) for i in evenly(len(photos), most_inputs)]
        kept_photos, kept_targets = _fitted(some_photos, [targets[i] for i in evenly(len(targets), most_targets)], budget)
        if _cost(kept_photos, kept_targets) <= budget:
            break
    return Section(scene, list(inputs), kept_photos, kept_targets, num_targets, dict(scores), dict(speed), note, video)


def _fitted(photos: list[tuple[int, Photo]], targets: list[NewTarget], budget: int) -> tuple[list[tuple[int, bytes]], list[Target]]:
    """Return input photos and targets encoded as finely as fits into a budget; as coarsely as possible if nothing fits."""

    def estimate(step: Step) -> float:
        """Return about what all take, by the first of each."""
        first_photo, first_target = _encoded(photos[:1], targets[:1], step)
        return _cost(first_photo, []) * len(photos) + _cost([], first_target) * len(targets)

    steps = steps_for([photo for _, photo in photos] + [target[1] for target in targets])
    start = finest(steps, lambda step: estimate(step) <= budget)
    for step in steps[start:-1]:
        found = _encoded(photos, targets, step)
        if _cost(*found) <= budget:
            return found
    return _encoded(photos, targets, steps[-1])


def _encoded(photos: list[tuple[int, Photo]], targets: list[NewTarget], step: Step) -> tuple[list[tuple[int, bytes]], list[Target]]:
    # Input photos are shown small.
    small = step if step == LOSSLESS else (max(128, min(384, step[0] // 2)), step[1])
    return [(view, encode(photo, small)) for view, photo in photos], [_target(target, step) for target in targets]


def _target(target: NewTarget, step: Step) -> Target:
    view, photo, rendering, nearest, scores = target
    others = encode_error(photo, rendering, step), None if nearest is None else encode(nearest, step)
    return Target(view, encode(photo, step), encode(rendering, step), *others, dict(scores))


def _cost(photos: list[tuple[int, bytes]], targets: list[Target]) -> int:
    """Return the bytes that encoded input photos and targets take on the page."""
    return sum(page_bytes(photo) for _, photo in photos) + sum(
        page_bytes(picture) for target in targets for picture in target.pictures
    )


def page_bytes(content: bytes) -> int:
    """Return the bytes that a picture takes on the page, in base64."""
    return 4 * -(-len(content) // 3) + MARKUP
