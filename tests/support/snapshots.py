"""Training states of a tiny network, and the content of their snapshots, for tests."""

import torch

from config import NetworkConfig, config_from_dict
from config.recipe import TrainingRecipe
from model.training.snapshot import rng_state
from model.training.state import TrainingState

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(data_path="train_data_path.json")


def config(dim: int = 8) -> NetworkConfig:
    layer = {"type": "fast_weight", "length_dim": "vl", "params": {"head_dim": 4, "inter_multi": 2, "base_lr": 0.01}}
    return config_from_dict({"patch_size": 2, "dim": dim, "layers": 1, "block": [layer]})


def trained(seed: int, step: int = 0, recipe: TrainingRecipe = RECIPE, dim: int = 8) -> TrainingState:
    """Return the state of a run after one update along random gradients."""
    torch.manual_seed(seed)
    state = TrainingState(config(dim), recipe, CPU, torch.float32)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.param_groups[0]["lr"] = 1e-2
    state.optimizer.step()
    state.step, state.skips[0] = step, 3
    return state


def content(step: int, seed: int = 0) -> dict:
    return trained(seed, step).content(RECIPE, [rng_state(CPU)], data_ranks=1)
