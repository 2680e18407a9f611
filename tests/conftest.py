"""What several tests share: golden files, random cameras, small networks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from config import LayerConfig, ModelConfig, config_from_dict
from model import LaCTLVSM

GOLDEN = Path(__file__).parent / "golden"

FAST_WEIGHT = LayerConfig(
    "fast_weight", "vl", {"head_dim": 24, "inter_multi": 1.5, "base_lr": 0.01, "muon_update_steps": 5}
)
LAYERS = {
    "self_attention": LayerConfig("self_attention", "l", {"head_dim": 16, "use_qk_norm": True}),
    "self_attention over the scene": LayerConfig("self_attention", "vl", {"head_dim": 16, "use_qk_norm": True}),
    "self_attention without norm": LayerConfig("self_attention", "l", {"head_dim": 16, "use_qk_norm": False}),
    "fast_weight": FAST_WEIGHT,
    "mlp": LayerConfig("mlp", "vl", {"inter_multi": 2}),
    "register_attention": LayerConfig("register_attention", "vl", {"head_dim": 16, "num_registers": 11}),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["one_head", "two_heads"])
def golden(request: pytest.FixtureRequest) -> dict:
    """Return the tensors of a golden file, its `config`, and `inputs` and `targets` as dicts."""
    with safe_open(GOLDEN / f"{request.param}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        config = config_from_dict(json.loads(file.metadata()["config"]))
    views = {
        part: {name: tensors[f"{part[:-1]}.{name}"] for name in ("image", "fxfycxcy", "c2w")} for part in ("inputs", "targets")
    }
    return {**tensors, **views, "config": config}


def golden_model(golden: dict) -> LaCTLVSM:
    """Return the golden file's network with its weights, Newton-Schulz in float32."""
    model = LaCTLVSM(golden["config"]).set_fast_weight(torch.float32)
    model.load_state_dict({key.removeprefix("model."): x for key, x in golden.items() if key.startswith("model.")})
    return model


def small_config(*names: str, layers: int = 2) -> ModelConfig:
    """Return a network of width 48, patch 4, whose blocks have the named layers of LAYERS."""
    return ModelConfig(4, 48, layers, tuple(LAYERS[name] for name in names))


def small_model(*names: str, layers: int = 2, seed: int = 0) -> LaCTLVSM:
    """Return it with random weights, scales and biases too, Newton-Schulz in float32."""
    torch.manual_seed(seed)
    model = LaCTLVSM(small_config(*names, layers=layers)).set_fast_weight(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


def random_poses(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random rigid c2w, (…, 4, 4), float32."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator)).Q
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w = torch.eye(4).repeat(*shape, 1, 1)
    c2w[..., :3, :3] = rotation
    c2w[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    return c2w


def random_views(b: int, v: int, h: int, w: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random `image` (b, v, 3, h, w), `fxfycxcy` (b, v, 4), `c2w` (b, v, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(b, v, 4, generator=generator) * 0.4 + 0.8
    return {
        "image": torch.rand(b, v, 3, h, w, generator=generator),
        "fxfycxcy": spread * torch.tensor([w, w, w / 2, h / 2]),
        "c2w": random_poses(b, v, seed=seed + 1),
    }


def relative_error(x: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ‖x − expected‖ / ‖expected‖."""
    return ((x - expected).norm() / expected.norm()).item()
