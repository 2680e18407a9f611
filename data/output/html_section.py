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
# Least inputs and targets of a section, and the bytes per input and per target from which it has more.
LEAST_INPUTS, INPUT_BYTES = 4, 12_000
LEAST_TARGETS, TARGET_BYTES = 2, 20_000

Photo = np.ndarray
Scores = Mapping[str, float | None]


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
    targets: Sequence[tuple[int, Photo, Photo, Photo | None, Scores]],
    num_targets: int,
    scores: Scores,
    speed: Mapping[str, float],
    note: str,
    video: Path | None,
    budget: int,
) -> Section:
    """Encode the pictures of a section so that it takes about `budget` bytes of the page at most.

    Images of at most 256×256 are stored without loss where the budget allows it, others as JPEG of the largest size that it allows.
    Below about 200 kB fewer inputs are kept, below 120 kB fewer targets; pictures never get smaller than 128 pixels.

    Args:
        scene, inputs, num_targets, scores, speed, note, video: see `Section`.
        photos: of all inputs.
        targets: (view, photo, rendering, photo of the nearest input if known, scores); evenly spaced ones are shown.
        budget: see `section_budget`.
    """
    views = evenly(len(photos), max(LEAST_INPUTS, min(MOST_INPUTS, budget // INPUT_BYTES)))
    shown_inputs = [(inputs[i], photos[i]) for i in views]
    shown_targets = [targets[i] for i in evenly(len(targets), max(LEAST_TARGETS, min(MOST_TARGETS, budget // TARGET_BYTES)))]

    def cost(step: Step) -> float:
        """Return about what all pictures take, as the first input's and the first target's do."""
        one_input = sum(page_bytes(encode(photo, _for_inputs(step))) for _, photo in shown_inputs[:1])
        one_target = sum(page_bytes(picture) for target in shown_targets[:1] for picture in pictures_of(_target(target, step)))
        return one_input * len(shown_inputs) + one_target * len(shown_targets)

    steps = steps_for([photo for _, photo in shown_inputs] + [target[1] for target in shown_targets])
    section = None
    for step in steps[finest(steps, lambda step: cost(step) <= budget) :]:
        encoded = [(view, encode(photo, _for_inputs(step))) for view, photo in shown_inputs]
        rendered = [_target(target, step) for target in shown_targets]
        facts = (num_targets, dict(scores), dict(speed), note, video)
        section = Section(scene, list(inputs), encoded, rendered, *facts)
        if sum(map(page_bytes, section_pictures(section))) <= budget:
            break
    assert section is not None
    return section


def section_pictures(section: Section) -> list[bytes]:
    """Return all pictures of a section."""
    return [picture for _, picture in section.photos] + [picture for target in section.targets for picture in pictures_of(target)]


def pictures_of(target: Target) -> list[bytes]:
    """Return a target's pictures."""
    return [target.photo, target.rendering, target.error, *([] if target.nearest is None else [target.nearest])]


def page_bytes(content: bytes) -> int:
    """Return the bytes that a picture or a video takes on the page, in base64."""
    return 4 * -(-len(content) // 3) + MARKUP


def _target(target: tuple[int, Photo, Photo, Photo | None, Scores], step: Step) -> Target:
    view, photo, rendering, nearest, scores = target
    others = encode_error(photo, rendering, step), None if nearest is None else encode(nearest, step)
    return Target(view, encode(photo, step), encode(rendering, step), *others, dict(scores))


def _for_inputs(step: Step) -> Step:
    """Return the step of the input photos, which are shown small."""
    return step if step == LOSSLESS else (max(128, min(384, step[0] // 2)), step[1])
