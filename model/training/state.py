"""State of a training run: network, averaged weights, optimizer, and the counts of steps; saved and restored as one."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import NetworkConfig
from config.errors import InputError
from config.messages import with_type
from config.recipe import TrainingRecipe
from data.sampler import empty_batch, split
from model.lact_lvsm import LaCTLVSM
from model.machine import code_version
from model.parallel.processes import Processes
from model.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer, update_average
from model.training.snapshot import WHOLE, copied, set_rng_state
from model.weights.load import load_weights
from model.weights.values import all_finite


class TrainingState:
    """Everything that training changes.

    Args:
        config: the network's.
        recipe: of the run.
        device: where it is trained.
        dtype: compute dtype of its layers.

    Attributes:
        model: the bare network; its weights are random until something is loaded.
        average: the same with averaged weights, or None.
        optimizer: of the model.
        step: steps done.
        skips: (2,) float32 on the device: steps skipped in all, and in a row up to now.
    """

    def __init__(self, config: NetworkConfig, recipe: TrainingRecipe, device: torch.device, dtype: torch.dtype) -> None:
        self.model = LaCTLVSM(config).to(device).set_compute_dtype(dtype)
        self.model.activation_checkpointing = recipe.actckpt
        self.average = copy.deepcopy(self.model).requires_grad_(False) if recipe.ema else None
        self.optimizer = build_optimizer(self.model, recipe.weight_decay, recipe.optimizer)
        self.step = 0
        self.skips = torch.zeros(2, device=device)

    @property
    def result(self) -> LaCTLVSM:
        """The network that is validated and exported: the averaged one where there is one."""
        return self.average or self.model

    def load(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Start from weights; `where` names them in error messages.

        Raises:
            InputError: they do not fit the network.
        """
        for network in filter(None, (self.model, self.average)):
            load_weights(network, weights, where)

    def should_skip(self, loss: Tensor, norm: Tensor, largest: float, max_skips: int, processes: Processes) -> Tensor:
        """Return 1 if all processes are to skip this step, else 0: a float32 device scalar, no host sync.

        A run that has broken down, with `max_skips` skipped steps in a row, skips all further ones, until the host learns of it.

        Args:
            loss, norm: of the step.
            largest: norm that is not skipped.
            max_skips: in a row.
            processes: of the run.
        """
        bad = ~(loss.isfinite() & norm.isfinite()) | (norm > largest) | (self.skips[1] >= max_skips)
        return processes.maximum(bad.float())

    def finish_step(self, skipped: Tensor, recipe: TrainingRecipe) -> None:
        """Count a step, done or skipped, and update the averaged weights. No host sync."""
        if self.average is not None:
            update_average(self.average, self.model, recipe.ema, self.step)
        self.skips.copy_(torch.stack([self.skips[0] + skipped, (self.skips[1] + 1) * skipped]))
        self.step += 1

    def broke_down_at(self, recipe: TrainingRecipe) -> int | None:
        """Return the step that was the last of `max_skips` skipped in a row, or None. Waits for the device."""
        in_a_row = int(self.skips[1])
        return None if in_a_row < recipe.max_skips else self.step - (in_a_row - recipe.max_skips)

    def fault(self, recipe: TrainingRecipe) -> str | None:
        """Return why this state is not worth a snapshot, or None. Waits for the device."""
        at = self.broke_down_at(recipe)
        if at is not None:
            return (
                f"step {at}: {recipe.max_skips} steps in a row had a non-finite loss or gradient, or a gradient norm above "
                f"skip_norm, {recipe.skip_norm}"
            )
        networks = [network.state_dict().values() for network in (self.model, self.average) if network]
        if not all_finite(x for values in (*networks, optimizer_tensors(self.optimizer)) for x in values):
            return f"step {self.step}: weights, their average or the optimizer's state are not finite"
        if not self._renders():
            return f"step {self.step}: the weights render no finite numbers"
        return None

    def fault_of_result(self, export: torch.dtype) -> str | None:
        """Return why the result is not worth an export in the dtype `export`, or None. Waits for the device."""
        if 0 < self.step == int(self.skips[0]):
            return (
                f"every step of {self.step} was skipped: its loss or gradient was not finite, or its gradient norm above skip_norm"
            )
        if not all_finite(self.result.state_dict().values(), export):
            return f"the weights are not finite, or overflow in {str(export).removeprefix('torch.')}"
        if not self._renders():
            return "the weights render no finite numbers"
        return None

    @torch.no_grad()
    def _renders(self) -> bool:
        """Return whether the result renders finite numbers: weights can be finite and too large for that. Waits for the device.

        Cost: a pass over two tokens.
        """
        network, p = self.result, self.model.config.patch_size
        inputs, targets = split(empty_batch(1, 2, (p, 2 * p), network.device), 1, 1)
        context, network.context = network.context, None  # each process on its own
        with torch.compiler.set_stance("force_eager"):  # no graph for a size that comes once
            rendered = network(inputs, targets)
        network.context = context
        return bool(rendered.isfinite().all())

    def content(self, recipe: TrainingRecipe, rng: list[dict[str, Any]], data_ranks: int) -> dict[str, Any]:
        """Return what a snapshot holds: tensors where they are, and plain values. Waits for the device.

        Args:
            recipe: of the run.
            rng: `rng_state` of every process, by rank.
            data_ranks: number of processes that share a step's samples.
        """
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skips": int(self.skips[0]),
            "rng": rng,
            "recipe": dataclasses.asdict(recipe),
            "config": self.model.config.to_dict(),
            "data_ranks": data_ranks,
            "code_version": code_version(),
        }

    def restore(self, content: Mapping[str, Any], path: Path, rank: int) -> None:
        """Load the content of a snapshot, including the random number generators of process `rank`.

        A snapshot without an optimizer's state, as parts may hold it, leaves the optimizer as it is: new.

        Args:
            content: from `read_snapshot`.
            path: name in error messages.
            rank: of this process.

        Raises:
            InputError: the weights do not fit the network, or something else that the snapshot holds does not fit the run.
        """
        load_weights(self.model, content["model"], str(path))
        if self.average is not None:
            if content["average"] is None:
                raise InputError(f"{path}, average", "is missing", "averaged weights, which ema needs")
            load_weights(self.average, content["average"], f"{path}, average")
        if content["optimizer"] is not None:
            # Torch would keep tensors that are mapped into memory: the file could then neither shrink nor free its disk space.
            restore_optimizer(
                self.optimizer, copied(content["optimizer"]), f"{path}, optimizer", content["step"] - content["skips"]
            )
        if rank < len(content["rng"]):
            try:
                set_rng_state(content["rng"][rank])
            except Exception as error:  # Python, NumPy and torch raise different types at what is not a state of theirs
                raise InputError(f"{path}, rng", f"cannot be restored ({with_type(error)})", WHOLE) from error
        self.step, self.skips[0] = content["step"], content["skips"]
