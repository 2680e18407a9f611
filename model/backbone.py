"""The network without scene states: tokeniser, blocks, decoder, and the training pass.

Letters: b scenes, v views, h w pixels, p patch side, t = h·w/p² tokens of a view, d token width, c channels.
"""

import hashlib
import math
from functools import partial
from typing import Any, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from config import NetworkConfig
from config.errors import InputError
from config.messages import counted, shown
from model.camera import rays
from model.departure import TrainedWith
from model.layers import Addresses, Block, FastWeight, Layer, LocalLayer, MixingLayer, State
from model.layers.address import Address, focus_of, places_of
from model.layers.primitives import LayerNorm, Linear
from model.ops.gradient_mode import gradients_are_recorded
from model.parallel.context import ContextGroup, Shares
from model.runtime import even_chunks, split_views

# Per pixel: ray origin, ray direction, origin × direction, colour.
CHANNELS = 12

Network = TypeVar("Network", bound="Backbone")


# What `compile_layers` compiles: without gradients one layer, in place; in training one block.
def _run(layer: LocalLayer, x: Tensor) -> Tensor:
    return layer.forward_(x)


def _write(layer: MixingLayer, x: Tensor, memory: Any, address: Address | None) -> Any:
    return layer.write(x, memory, address)


def _read(layer: MixingLayer, x: Tensor, state: State, target: bool, address: Address | None) -> Tensor:
    return layer.read_(x, state, target, address)


def _train(
    block: Block, inputs: Tensor, targets: Tensor, last: bool, shares: Shares | None, addresses: tuple[Addresses | None, ...]
) -> tuple[Tensor, Tensor]:
    return block(inputs, targets, last, shares, *addresses)


def of_layer(addresses: Addresses | None, i: int) -> Address | None:
    """Return the address of tokens for layer `i` of a block."""
    return None if addresses is None else addresses[i]


def size_of(image: Tensor) -> tuple[int, int]:
    """Return (h, w)."""
    h, w = image.shape[-2:]
    return h, w


class Backbone(nn.Module):
    """The parameters and settings of `LaCTLVSM`, and what training needs of it.

    Args:
        config: the network config.

    Attributes:
        activation_checkpointing: recompute each block in the backward pass of `forward` instead of keeping its results.
        context: processes that share the views of each scene, see `LaCTLVSM`.
        trained_with: settings that the weights were trained with, as far as they are known.

    Raises:
        InputError: the config names an unknown layer or parameter, or widths that do not divide.

    Precision: tokens, rays, tokenisation and decoding in float32; layers in the compute dtype, see `set_compute_dtype`.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        p, d = config.patch_size, config.dim
        self.input_linear = nn.Linear(CHANNELS * p * p, d, bias=False)
        self.input_layernorm = LayerNorm(d)
        self.blocks = nn.ModuleList(Block(config.block, d) for _ in range(config.layers))
        self.image_token_decoder = nn.Sequential(LayerNorm(d), nn.Linear(d, 3 * p * p, bias=False))
        self.activation_checkpointing = False
        self.context: ContextGroup | None = None
        self.trained_with = TrainedWith()
        self._run, self._write, self._read, self._train = _run, _write, _read, _train
        self._fingerprint: tuple[object, str] | None = None
        self._initialise()

    def _initialise(self) -> None:
        scale = 1 / math.sqrt(self.config.layers * len(self.config.block))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 * (scale if name.endswith("c_proj") else 1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_compute_dtype(self: Network, dtype: torch.dtype, store: bool = False) -> Network:
        """Compute the layers in `dtype`; with `store`, keep their linear weights in it too (inference), else in float32."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute_dtype = dtype
                if store:
                    module.to(dtype)
        return self

    def set_fast_weight(self: Network, newton_schulz_dtype: torch.dtype = torch.bfloat16, implementation: str = "auto") -> Network:
        """Set the Newton-Schulz dtype and the implementation (`model.ops.fast_weight`) of all fast-weight layers."""
        for module in self.modules():
            if isinstance(module, FastWeight):
                module.newton_schulz_dtype, module.implementation = newton_schulz_dtype, implementation
        return self

    def compile_layers(self: Network, **options) -> Network:
        """Run every layer (and, in training, every block) through `torch.compile`: one graph serves all blocks.

        Args:
            options: keyword arguments of `torch.compile`.
        """
        self._run = torch.compile(_run, fullgraph=True, **options)
        self._write = torch.compile(_write, fullgraph=True, **options)
        self._read = torch.compile(_read, fullgraph=True, **options)
        self._train = torch.compile(_train, fullgraph=True, **options)
        return self

    @property
    def block_list(self) -> list[Block]:
        """The blocks, in order."""
        return cast(list[Block], list(self.blocks))

    @property
    def compute_dtype(self) -> torch.dtype:
        return next((module.compute_dtype for module in self.modules() if isinstance(module, Linear)), torch.float32)

    @property
    def device(self) -> torch.device:
        return self.input_linear.weight.device

    def fingerprint(self) -> str:
        """Return a short hash of weights that are the same in every precision: it ties a state to the network that wrote it.

        Synchronises with the device if these weights have changed since the last call.
        """
        weights = (self.input_layernorm.weight, cast(nn.Linear, self.image_token_decoder[1]).weight)
        now = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if self._fingerprint is None or self._fingerprint[0] != now:
            data = b"".join(weight.detach().float().cpu().numpy().tobytes() for weight in weights)
            self._fingerprint = now, hashlib.sha256(data).hexdigest()[:16]
        return self._fingerprint[1]

    def forward(self, inputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Render targets from inputs in one pass, with gradients.

        Args:
            inputs: `image` (b, v, 3, h, w) in 0..1, `fxfycxcy` (b, v, 4) in pixels, `c2w` (b, v, 4, 4) OpenCV axes.
            targets: `fxfycxcy` (b, u, 4) and `c2w` (b, u, 4, 4); with an `image` of another size, rendered at that size.

        Returns:
            (b, u, 3, h, w) float32 in 0..1.

        Raises:
            ValueError: shapes that do not fit each other or the patch.
        """
        input_size, target_size = size_of(inputs["image"]), size_of(targets.get("image", inputs["image"]))
        x = self.tokenise(inputs["fxfycxcy"], inputs["c2w"], input_size, inputs["image"])
        y = self.tokenise(targets["fxfycxcy"], targets["c2w"], target_size)
        shares = self._shares(len(x), x.shape[1], input_size)
        focus = self._focus(inputs["c2w"], shares)
        addresses = (
            self._addresses(inputs["fxfycxcy"], inputs["c2w"], input_size, focus),
            self._addresses(targets["fxfycxcy"], targets["c2w"], target_size, focus),
        )
        run = self._train
        if self.activation_checkpointing and gradients_are_recorded():
            run = partial(checkpoint, self._train, use_reentrant=False)
        for block in self.block_list:
            x, y = run(block, x, y, block is self.blocks[-1], shares, addresses)
        return self.decode(y, target_size)

    def _pass(
        self, i: int, layer: Layer, state: State | None, x: Tensor, addresses: Addresses | None, target: bool = False
    ) -> Tensor:
        """Apply layer `i` of a block to tokens `x` in place, reading `state` if it mixes views; return them."""
        if isinstance(layer, LocalLayer):
            return self._run(layer, x)
        assert state is not None
        return self._read(layer, x, state, target, of_layer(addresses, i))

    @property
    def _needs_focus(self) -> bool:
        configs = [layer.params.get("address") for layer in self.config.block]
        return any(config is not None and config.phases == "foot" for config in configs)

    @property
    def _address_bytes(self) -> int:
        """Upper bound, in bytes, of the addresses of a token."""
        return sum(4 * layer.params["head_dim"] for layer in self.config.block if "address" in layer.params)

    @property
    def mixing_layers(self) -> list[MixingLayer]:
        """The layers in which views meet, in the network's order."""
        return [layer for block in self.block_list for layer in block.layers if isinstance(layer, MixingLayer)]

    def _focus(self, c2w: Tensor, shares: Shares | None) -> Tensor | None:
        """Return the point where the inputs of all processes look, (b, 3), if a layer uses it."""
        if not self._needs_focus:
            return None
        c2w = c2w.to(self.device)
        return focus_of(c2w if shares is None else shares.gather(c2w, shares.views))

    def _addresses(self, fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int], focus: Tensor | None) -> Addresses | None:
        """Return the addresses of the tokens of some views for the layers of a block, the same in all blocks."""
        if not any("address" in layer.params for layer in self.config.block):
            return None
        places = places_of(fxfycxcy.to(self.device), c2w.to(self.device), image_size, self.config.patch_size, focus)
        layers = self.block_list[0].layers
        return tuple(layer.address(places) if isinstance(layer, MixingLayer) else None for layer in layers)

    def tokenise(self, fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int], image: Tensor | None = None) -> Tensor:
        """Return tokens (b, v, t, d), float32, of posed images, or of bare cameras where `image` is None."""
        self._check(fxfycxcy, c2w, image_size, image)
        origin, direction = rays(fxfycxcy.to(self.device), c2w.to(self.device), image_size)
        moment = torch.linalg.cross(origin, direction, dim=2)
        colour = torch.zeros_like(origin) if image is None else image.to(origin) * 2 - 1
        pixels = torch.cat([origin, direction, moment, colour], dim=2)
        p = self.config.patch_size
        patches = rearrange(pixels, "b v c (h ph) (w pw) -> b v (h w) (ph pw c)", ph=p, pw=p)
        return self.input_layernorm(self.input_linear(patches))

    def decode(self, y: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Return images (b, v, 3, h, w), float32 in 0..1, of tokens (b, v, t, d)."""
        p = self.config.patch_size
        patches = self.image_token_decoder(y).sigmoid()
        return rearrange(patches, "b v (h w) (ph pw c) -> b v c (h ph) (w pw)", h=image_size[0] // p, ph=p, pw=p)

    def _check(self, fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int], image: Tensor | None = None) -> None:
        b, v = fxfycxcy.shape[:2]
        if fxfycxcy.shape != (b, v, 4) or c2w.shape != (b, v, 4, 4):
            shapes = f"fxfycxcy is {tuple(fxfycxcy.shape)}, c2w {tuple(c2w.shape)}"
            raise ValueError(f"cameras: {shapes}; wanted (b, v, 4), (b, v, 4, 4)")
        if image is not None and (image.ndim != 5 or image.shape[:3] != (b, v, 3)):
            raise ValueError(f"image is {tuple(image.shape)}; wanted ({b}, {v}, 3, h, w), as the cameras are")
        if b * v == 0 and (b == 0 or self.context is None or self.context.size == 1):
            raise InputError("cameras", f"are of {counted(b, 'scene')} with {counted(v, 'view')}", "at least one view")
        p = self.config.patch_size
        if image_size[0] % p or image_size[1] % p or min(image_size) < p:
            raise ValueError(f"image size {image_size[0]} {image_size[1]}: height and width must be multiples of the patch, {p}")

    def _shares(self, b: int, v: int, image_size: tuple[int, int]) -> Shares | None:
        """Return how views and tokens are split over the processes of the context; this one has v input views of b scenes."""
        if self.context is None or self.context.size == 1:
            return None
        return self.context.shares(b, v, image_size, math.prod(image_size) // self.config.patch_size**2)

    def _chunks(self, b: int, v: int, image_size: tuple[int, int], chunk_views: int | None, keeps_tokens: bool) -> list[slice]:
        """Return the slices of views that go through a layer together; `keeps_tokens`: the tokens of all views stay in memory."""
        if chunk_views is not None and not (isinstance(chunk_views, int) and chunk_views > 0):
            raise InputError("chunk_views", f"is {shown(chunk_views)}", "1 or more, or None: by free memory")
        tokens = b * image_size[0] * image_size[1] // self.config.patch_size**2
        d = self.config.dim
        widest = max(max(x.shape) for name, x in self.named_parameters() if name.startswith("blocks."))
        reserved = v * tokens * (d * 4 + self._address_bytes) if keeps_tokens else 0
        # Six results of the widest layer's width and float32 copies of the token: no layer holds more at a time.
        sizes = even_chunks(v, chunk_views) if chunk_views else split_views(v, tokens, 24 * (widest + d), reserved, self.device)
        sizes = sizes or [0]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
