"""Registry of the layer types that a network config may name, and their construction."""

import inspect

from config import LayerConfig, did_you_mean
from config.errors import InputError
from config.messages import shown
from model.layers.attention import RegisterAttention, SelfAttention
from model.layers.contract import AnyMixing, Local
from model.layers.fast_weight import FastWeight
from model.layers.mlp import MLP

BLOCKS: dict[str, type[Local] | type[AnyMixing]] = {
    "self_attention": SelfAttention,
    "fast_weight": FastWeight,
    "mlp": MLP,
    "register_attention": RegisterAttention,
}


def build_layer(config: LayerConfig, dim: int) -> Local | AnyMixing:
    """Build a layer from its part of a network config.

    Args:
        config: its type, `length_dim` and params.
        dim: token width.

    Raises:
        InputError: unknown type, a `length_dim` or params that the type does not take.
    """
    if config.type not in BLOCKS:
        raise InputError(
            f"layer type {shown(config.type)}", "is unknown", f"a known one; {did_you_mean(config.type, list(BLOCKS))}"
        )
    cls = BLOCKS[config.type]
    if config.length_dim not in cls.length_dims:
        raise InputError(f"{config.type}, length_dim", f"is {shown(config.length_dim)}", " or ".join(cls.length_dims))
    known = inspect.signature(cls).parameters
    own = {"dim": dim, **({"length_dim": config.length_dim} if "length_dim" in known else {})}
    arguments = {**own, **config.params}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        names = ", ".join(name for name in known if name not in own)
        raise InputError(f"{config.type}, params", f"is {shown(config.params)} ({error})", names) from error
    try:
        return cls(**arguments)
    except InputError as error:
        raise error.within(config.type) from error
