"""Validation during training: scores of the held-out scenes, and a picture of the first.

Letters: b scenes, v input views, u target views.
"""

from pathlib import Path

import torch
from torch import Tensor

from config.errors import InputError
from config.recipe import TrainingRecipe
from config.signals import Signals
from data.output.picture import comparison
from data.output.video import to_uint8
from data.sampler import Batch, Source, split
from model.metric import psnr, ssim
from model.parallel.processes import Processes
from model.training.recorder import Recorder
from model.training.state import TrainingState


@torch.no_grad()
def validate(
    state: TrainingState, held_out: Source, recipe: TrainingRecipe, processes: Processes, recorder: Recorder, signals: Signals
) -> tuple[bool, Exception | None]:
    """Render the held-out scenes, shared among the processes, and record means over scenes of PSNR and SSIM over their views.

    A signal to any process, which leaves no time, ends it early, and nothing is recorded.

    Returns:
        whether all scenes could be read, else nothing is recorded; this process's read error, or None.
    """
    model, sums = state.result, torch.zeros(3, dtype=torch.float64)
    first_scene, bad_data = None, None
    context, model.context = model.context, None  # each process renders scenes of its own
    for i in range(processes.rank, held_out.count_validation_scenes(), processes.world):
        if signals.received:
            break
        try:
            batch = {key: value.to(processes.device) for key, value in held_out.validation_batch(i).items()}
        except (InputError, OSError) as error:
            bad_data = error
            break
        inputs, targets = split(batch, recipe.num_input_views, recipe.num_target_views)
        rendered = model(inputs, targets).clamp(0, 1)
        first_scene = first_scene or (inputs, targets, rendered)
        scores = [psnr(rendered, targets["image"]).mean(), ssim(rendered, targets["image"]).mean(), torch.ones(())]
        sums += torch.stack([score.double().cpu() for score in scores])
    model.context = context
    if processes.highest(int(bad_data is not None)):
        return False, bad_data
    if processes.highest(int(signals.received)):
        return True, None
    total = processes.total(sums)
    if processes.first and first_scene:
        path = recorder.folder / "picture" / f"step_{state.step:08d}.png"
        recorder.attempt("pictures", lambda: draw(path, *first_scene))
    recorder.write(state.step, {"val_psnr": float(total[0] / total[2]), "val_ssim": float(total[1] / total[2])})
    return True, None


def draw(path: Path, inputs: Batch, targets: Batch, rendered: Tensor) -> None:
    """Write a picture of the first scene of a batch: inputs, and targets next to renderings."""
    views = (inputs["image"][0], targets["image"][0], rendered[0])
    comparison(path, *(list(to_uint8(images)) for images in views), title=path.stem.replace("_", " "))
