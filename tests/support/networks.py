"""Small networks with random weights, random views for them, and the golden network."""

from pathlib import Path

import torch
from torch import Tensor

from config import AddressConfig, LayerConfig, NetworkConfig
from model import LaCTLVSM

GOLDEN = Path(__file__).parents[1] / "golden"

FAST_WEIGHT = LayerConfig("fast_weight", "vl", {"head_dim": 24, "inter_multi": 1.5, "base_lr": 0.01, "muon_update_steps": 5})


def addressed(phases: str, *sites: str, **params: bool) -> LayerConfig:
    """Return FAST_WEIGHT with an address."""
    address = AddressConfig(phases, sites, 0.5, 4.0)
    return LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "address": address, **params})


LAYERS = {
    "self_attention": LayerConfig("self_attention", "l", {"head_dim": 16, "use_qk_norm": True}),
    "self_attention over the scene": LayerConfig("self_attention", "vl", {"head_dim": 16, "use_qk_norm": True}),
    "self_attention without norm": LayerConfig("self_attention", "l", {"head_dim": 16, "use_qk_norm": False}),
    "fast_weight": FAST_WEIGHT,
    "fast_weight by image": addressed("image", "hidden"),
    "fast_weight by line": addressed("line", "qk", "vo", w1_only=True),
    "fast_weight by foot": addressed("foot", "qk", "hidden", "vo"),
    "mlp": LayerConfig("mlp", "vl", {"inter_multi": 2}),
    "register_attention": LayerConfig("register_attention", "vl", {"head_dim": 16, "num_registers": 11}),
}


def golden_model(golden: dict, device: torch.device = torch.device("cpu")) -> LaCTLVSM:  # noqa: B008 (a constant)
    """Return the golden file's network with its weights, Newton-Schulz in float32, nothing compiled."""
    model = LaCTLVSM(golden["config"]).set_fast_weight(torch.float32, "naive")
    model.load_state_dict({key.removeprefix("model."): x for key, x in golden.items() if key.startswith("model.")})
    return model.to(device)


def on(device: torch.device, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views on a device."""
    return {name: x.to(device) for name, x in views.items()}


def small_config(*names: str, layers: int = 2) -> NetworkConfig:
    """Return a network of width 48, patch 4, whose blocks have the named layers of LAYERS."""
    return NetworkConfig(4, 48, layers, tuple(LAYERS[name] for name in names))


def small_model(*names: str, layers: int = 2, seed: int = 0) -> LaCTLVSM:
    """Return the network of `small_config` with random weights, including scales and biases, and Newton-Schulz in float32."""
    torch.manual_seed(seed)
    model = LaCTLVSM(small_config(*names, layers=layers)).set_fast_weight(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


def random_poses(*shape: int, seed: int = 0) -> Tensor:
    """Return random rigid c2w, (…, 4, 4), float32."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator)).Q
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w = torch.eye(4).repeat(*shape, 1, 1)
    c2w[..., :3, :3] = rotation
    c2w[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    return c2w


def random_views(b: int, v: int, h: int, w: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random `image` (b, v, 3, h, w), `fxfycxcy` (b, v, 4), `c2w` (b, v, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(b, v, 4, generator=generator) * 0.4 + 0.8
    return {
        "image": torch.rand(b, v, 3, h, w, generator=generator),
        "fxfycxcy": spread * torch.tensor([w, w, w / 2, h / 2]),
        "c2w": random_poses(b, v, seed=seed + 1),
    }


def cameras(views: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return `fxfycxcy` and `c2w` of views."""
    return views["fxfycxcy"], views["c2w"]


def relative_error(x: Tensor, expected: Tensor) -> float:
    """Return ‖x − expected‖ / ‖expected‖."""
    return ((x - expected).norm() / expected.norm()).item()
