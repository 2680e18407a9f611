"""Weights of published shapes, and small ones."""

import pytest
import torch

from config import LayerConfig, NetworkConfig


def lact_shapes(layers: int, d: int, inter_multi: int, heads: int = 1, attention_k: int = 64, p: int = 8) -> dict:
    """Return the names and shapes of a published network's tensors, written out from its description."""
    k = d // heads
    m = k * inter_multi
    shapes = {"input_linear.weight": (d, 12 * p * p), "input_layernorm.weight": (d,)}
    for i in range(layers):
        block = f"blocks.{i}.module_list"
        shapes |= {
            f"{block}.0.ln.weight": (d,),
            f"{block}.0.f.to_qkv.weight": (3 * d, d),
            f"{block}.0.f.c_proj.weight": (d, d),
            f"{block}.0.f.q_norm.weight": (attention_k,),
            f"{block}.0.f.k_norm.weight": (attention_k,),
            f"{block}.1.ln.weight": (d,),
            f"{block}.1.f.w0": (heads, k, m),
            f"{block}.1.f.w1": (heads, m, k),
            f"{block}.1.f.w2": (heads, k, m),
            f"{block}.1.f.to_qkv.weight": (3 * d, d),
            f"{block}.1.f.c_proj.weight": (d, d),
            f"{block}.1.f.lr_fc.weight": (3 * heads, d),
            f"{block}.1.f.lr_fc.bias": (3 * heads,),
            f"{block}.1.f.o_norm.weight": (k,),
            f"{block}.2.ln.weight": (d,),
            f"{block}.2.f.c_fc.weight": (4 * d, d),
            f"{block}.2.f.c_proj.weight": (d, 4 * d),
        }
    return shapes | {"image_token_decoder.0.weight": (d,), "image_token_decoder.1.weight": (3 * p * p, d)}


def meta(shapes: dict) -> dict:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def recipe(layers: int, d: int, inter_multi: float, k: int, attention_k: int = 64, p: int = 8) -> NetworkConfig:
    fast_weight = {"head_dim": k, "inter_multi": inter_multi, "base_lr": 0.01, "muon_update_steps": 5}
    return NetworkConfig(
        p,
        d,
        layers,
        (
            LayerConfig("self_attention", "l", {"head_dim": attention_k, "use_qk_norm": True}),
            LayerConfig("fast_weight", "vl", fast_weight),
            LayerConfig("mlp", "vl", {"inter_multi": 4}),
        ),
    )


def small_weights(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    shapes = lact_shapes(layers=2, d=12, inter_multi=2, heads=3, attention_k=6, p=2)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def equal(found: dict, wanted: dict) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)


def fails(kind: type[Exception], match: str, function, *arguments) -> None:
    with pytest.raises(kind, match=match) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
