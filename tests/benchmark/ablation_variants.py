"""Variants of the ablation: networks and training settings, as changes to one network and one recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from config import did_you_mean, read_yaml
from config.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE_SIZE = (32, 32)
TRAINED = (3, 12)  # inputs
RECIPE = {
    "image_size": list(IMAGE_SIZE), "num_all_views": 20, "min_input_views": TRAINED[0], "num_input_views": TRAINED[1],
    "num_target_views": 8, "bs_per_gpu": 8, "optimizer": "muon", "lr": 1e-3, "schedule": "cosine", "lpips_weight": 0.0,
    "skip_norm": 100.0, "device": "cpu",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A network and its training, as changes to `base` and `RECIPE`.

    Attributes:
        what: description in the tables.
        against: the variants that it is compared with.
        shape: keys of the network, and `head_dim` of its fast weights.
        fast: further params of its fast weights.
        recipe: settings of the training.
        base: the network's file in config/.
    """

    what: str
    against: tuple[str, ...] = ()
    shape: dict = field(default_factory=dict)
    fast: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    base: str = "lact_l4_d256.yaml"


def _address(phases: str, *sites: str, lowest: float = 0.6, highest: float = 6.4) -> dict:
    return {"address": {"phases": phases, "sites": list(sites or ("qk", "hidden")), "lowest": lowest, "highest": highest}}


FOOT, FOOT_FINE = _address("foot"), _address("foot", highest=12.8)
FINE, DEEP, WIDE = {"patch_size": 4}, {"dim": 192, "layers": 8, "head_dim": 96}, {"dim": 384, "layers": 2}
VARIANTS = {
    "none": Variant("no address"),
    "image": Variant("image: place in the image", ("none",), fast=_address("image", lowest=2.0, highest=25.0)),
    "line": Variant("line: Plücker coordinates", ("none",), fast=_address("line")),
    "line_high": Variant("line, ladder twice as high", ("line", "none"), fast=_address("line", lowest=1.2, highest=12.8)),
    "foot": Variant("foot on qk and hidden", ("none", "image", "line"), fast=FOOT),
    "foot_qk": Variant("foot on qk", ("foot", "none"), fast=_address("foot", "qk")),
    "foot_hidden": Variant("foot on hidden", ("foot", "none"), fast=_address("foot", "hidden")),
    "foot_vo": Variant("foot on vo", ("foot", "none"), fast=_address("foot", "vo")),
    "foot_all": Variant("foot on qk, hidden and vo", ("foot",), fast=_address("foot", "qk", "hidden", "vo")),
    "foot_w1": Variant("foot, w1 alone updated", ("foot",), fast=FOOT | {"w1_only": True}),
    "none_p4": Variant("no address, patch 4", ("none",), FINE),
    "foot_p4": Variant("foot, patch 4", ("foot", "none_p4"), FINE, FOOT_FINE),
    "none_lr2": Variant("no address, peak rate 2e-3", ("none",), recipe={"lr": 2e-3}),
    "foot_lr2": Variant("foot, peak rate 2e-3", ("foot", "none_lr2"), fast=FOOT, recipe={"lr": 2e-3}),
    "foot_deep": Variant("foot, 8 blocks of 192", ("foot",), DEEP, FOOT),
    "foot_wide": Variant("foot, 2 blocks of 384", ("foot",), WIDE, FOOT),
    "foot_gradient": Variant("foot, loss of neighbouring differences", ("foot",), fast=FOOT, recipe={"gradient_weight": 1.0}),
    "foot_ema": Variant("foot, average of weights", ("foot",), fast=FOOT, recipe={"ema": 0.99}),
    "lvsm": Variant("full attention", ("none", "foot"), base="lvsm_l4_d256.yaml"),
}  # fmt: skip
KINDS = {
    "objects": [name for name in VARIANTS if name != "line_high"],
    "scenes": ["none", "image", "line", "line_high", "foot"],
}
PICTURE = {
    "address": ("none", "image", "line", "foot"), "sites of foot": ("foot", "foot_qk", "foot_hidden", "foot_vo"),
    "finer patches": ("none", "none_p4", "foot", "foot_p4"), "peak rate": ("none", "none_lr2", "foot", "foot_lr2"),
    "depth and width": ("foot", "foot_deep", "foot_wide", "lvsm"),
    "update, loss, average": ("foot", "foot_w1", "foot_gradient", "foot_ema"),
}  # fmt: skip


def check_name(name: str) -> None:
    """Check that a name is a variant or NAME@OTHER of two.

    Raises:
        InputError: an unknown name.
    """
    for part in name.split("@", 1):
        if part not in VARIANTS:
            raise InputError(name, f"{part!r} is not a variant", f"a known one ({did_you_mean(part, list(VARIANTS))})")


def network(name: str) -> dict:
    """Return the network of a variant, as its YAML holds it."""
    variant = VARIANTS[name.partition("@")[0]]
    config = read_yaml(ROOT / "config" / variant.base)
    shape = dict(variant.shape)
    for layer in config["block"]:
        if layer["type"] == "fast_weight":
            layer["params"] |= {"head_dim": shape.pop("head_dim", layer["params"]["head_dim"]), **variant.fast}
    return config | shape
