"""Training settings of weights, and departures of a run from them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from config.messages import counted

# The published scene weights, trained with 32 inputs, are shown with up to 128; the bundled model is as good with 56 as with 16.
FAR_MORE_INPUTS = 4


@dataclass(frozen=True)
class TrainedWith:
    """Settings of the training of some weights; None where they are unknown. Names are the recipe's.

    Attributes:
        image_size: (height, width) in pixels.
        num_input_views: the most inputs of a sample.
        kind: `object` or `scene`, what the samples showed.
        scene_pose_normalize: whether poses were moved into the frame and scale of their mean camera.
        steps: of the run that wrote the weights.
    """

    image_size: tuple[int, int] | None = None
    num_input_views: int | None = None
    kind: str | None = None
    scene_pose_normalize: bool | None = None
    steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, in plain values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def departure(weights: str, trained: TrainedWith, image_size: tuple[int, int], num_inputs: int, normalised: bool) -> str:
    """Return one line that says how a run departs from what its weights were trained with; empty if it does not.

    Args:
        weights: their name.
        trained: of the weights.
        image_size: (height, width) of the run.
        num_inputs: the most inputs of its scenes.
        normalised: whether poses are normalised, as for scenes.
    """
    found = departures(trained, image_size, num_inputs, normalised)
    return f"{weights}: trained {'; '.join(found)}; pictures may be worse than the weights allow" if found else ""


def departures(trained: TrainedWith, image_size: tuple[int, int], num_inputs: int, normalised: bool) -> list[str]:
    """Return how a run departs from what its weights were trained with, in words; arguments as of `departure`."""
    found = []
    if trained.image_size not in (None, image_size):
        found.append(f"at {_size(trained.image_size)}, here {_size(image_size)} (h×w)")
    if trained.num_input_views is not None and num_inputs > FAR_MORE_INPUTS * trained.num_input_views:
        found.append(f"with {counted(trained.num_input_views, 'input')}, here {num_inputs}")
    if trained.scene_pose_normalize not in (None, normalised):
        words = ("objects, poses as given", "scenes, poses normalised")
        found.append(f"on {words[not normalised]}, here {words[normalised]}")
    return found


def _size(size: tuple[int, int] | None) -> str:
    return "×".join(map(str, size or ()))
