"""The LaCT-LVSM network: tokeniser, blocks and decoder, run in one pass, or as reconstruct once and render later.

Letters: b scenes, v views, h w pixels, p patch side, t = h·w/p² tokens of a view, d token width, c channels.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from config import NetworkConfig
from config.errors import InputError
from config.messages import counted, shown, with_article
from model.camera import rays
from model.camera_path import CameraPath
from model.departure import TrainedWith
from model.given import Array, given_cameras, given_views
from model.layers import Addresses, Block, FastWeight, Layer, LocalLayer, MixingLayer, State
from model.layers.address import Address, focus_of, places_of
from model.layers.block import state_shapes
from model.layers.primitives import LayerNorm, Linear
from model.ops.gradient_mode import gradients_are_recorded
from model.parallel.context import ContextGroup, Shares
from model.posed_images import PosedImages
from model.runtime import even_chunks, split_views
from model.scene_state import SceneState
from model.token_stream import TokenStream

# Per pixel: ray origin, ray direction, origin × direction, colour.
CHANNELS = 12


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


def _of_layer(addresses: Addresses | None, i: int) -> Address | None:
    return None if addresses is None else addresses[i]


def _size_of(image: Tensor) -> tuple[int, int]:
    """Return (h, w)."""
    h, w = image.shape[-2:]
    return h, w


class LaCTLVSM(nn.Module):
    """Novel view synthesis by large-chunk test-time training on an LVSM-style transformer.

    Args:
        config: the network config.

    Attributes:
        activation_checkpointing: recompute each block in the backward pass of `forward` instead of keeping its results.
        context: processes that share the views of each scene. `forward` and `reconstruct` are then collective: every process
            passes its own views (possibly none) and gets its own targets, or the state of all views.
        trained_with: settings that the weights were trained with, as far as they are known.

    Raises:
        InputError: the config names an unknown layer or parameter, or widths that do not divide.

    Precision: tokens, rays, tokenisation and decoding in float32; layers in the compute dtype, see `set_compute_dtype`.
    Source: LaCT (arXiv 2505.23884), LVSM (arXiv 2410.17242). The parameters' names are those of the published checkpoints.
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
        self._state_shapes: dict[tuple[int, int], list[dict[str, tuple[int, ...]]]] = {}
        self._initialise()

    def _initialise(self) -> None:
        scale = 1 / math.sqrt(self.config.layers * len(self.config.block))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 * (scale if name.endswith("c_proj") else 1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_compute_dtype(self, dtype: torch.dtype, store: bool = False) -> "LaCTLVSM":
        """Compute the layers in `dtype`; with `store`, keep their linear weights in it too (inference), else in float32."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute_dtype = dtype
                if store:
                    module.to(dtype)
        return self

    def set_fast_weight(self, newton_schulz_dtype: torch.dtype = torch.bfloat16, implementation: str = "auto") -> "LaCTLVSM":
        """Set the Newton-Schulz dtype and the implementation (`model.ops.fast_weight`) of all fast-weight layers."""
        for module in self.modules():
            if isinstance(module, FastWeight):
                module.newton_schulz_dtype, module.implementation = newton_schulz_dtype, implementation
        return self

    def compile_layers(self, **options) -> "LaCTLVSM":
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
        input_size, target_size = _size_of(inputs["image"]), _size_of(targets.get("image", inputs["image"]))
        x = self.tokenise(inputs["fxfycxcy"], inputs["c2w"], input_size, inputs["image"])
        y = self.tokenise(targets["fxfycxcy"], targets["c2w"], target_size)
        shares = self._shares(x, input_size)
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

    @torch.no_grad()
    def reconstruct(
        self,
        image: Array | PosedImages,
        fxfycxcy: Array | None = None,
        c2w: Array | None = None,
        chunk_views: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SceneState:
        """Write posed images into a scene state.

        Views pass through each layer in chunks; up to rounding, the result does not depend on the chunks.

        Args:
            image: a scene from `load_scene`, alone; or (b, v, 3, h, w) in 0..1, on any device, without b for one scene. Arrays do
                as well as tensors.
            fxfycxcy: (b, v, 4) in pixels.
            c2w: (b, v, 4, 4), OpenCV axes.
            chunk_views: views per chunk; None chooses by free memory.
            progress: called with (layers done, layers in all) after each layer that views write into.

        Returns:
            the state, on the model's device.

        Raises:
            InputError: shapes that do not fit each other or the patch, images in another range than 0..1, poses that are not rigid,
                or `chunk_views` below 1; see `model.checks`.

        Warns:
            UserWarning: a scene from `load_scene` departs from what the weights were trained with.

        Cost: memory for b·v·t·d float32 tokens and the intermediate results of one chunk.

        Example:
            >>> import torch
            >>> from model import load_model
            >>> from model.camera_path import published_turntable
            >>> model = load_model("lact_objects_64.safetensors", device="cpu")
            >>> path = published_turntable(3, (64, 64))
            >>> image = torch.rand(1, 3, 3, 64, 64)  # in place of photos taken by these cameras
            >>> state = model.reconstruct(image, path.fxfycxcy[None], path.c2w[None])
            >>> len(state.layers), state.layers[0]["w0"].shape
            (4, torch.Size([2, 128, 256]))
        """
        scene = image if isinstance(image, PosedImages) else None
        image, fxfycxcy, c2w = given_views(image, fxfycxcy, c2w, self.config.patch_size, self.trained_with)
        image_size = _size_of(image)
        self._check(fxfycxcy, c2w, image_size, image)
        b, v = image.shape[:2]
        bounds = self._chunks(b, v, image_size, chunk_views, keeps_tokens=True)
        chunks = [self.tokenise(fxfycxcy[:, s], c2w[:, s], image_size, image[:, s]) for s in bounds]
        shares = self._shares(image, image_size)
        focus = self._focus(c2w, shares)
        stream = TokenStream(chunks, [self._addresses(fxfycxcy[:, s], c2w[:, s], image_size, focus) for s in bounds])
        layers = [(i, layer) for block in self.block_list for i, layer in enumerate(block.layers)]
        writers = sum(isinstance(layer, MixingLayer) for _, layer in layers)
        states: list[State] = []
        for i, layer in layers:
            state = None
            if isinstance(layer, MixingLayer):
                memory = None
                for x, addresses in stream.caught_up():
                    memory = self._write(layer, x, memory, _of_layer(addresses, i))
                state = layer.finish(memory, shares)
                states.append(state)
                if progress:
                    progress(len(states), writers)
            stream.waiting.append(partial(self._pass, i, layer, state))
        fxfycxcy, c2w = fxfycxcy.detach().float(), c2w.detach().float()
        if shares is not None:
            fxfycxcy, c2w = shares.gather(fxfycxcy, shares.views), shares.gather(c2w, shares.views)
        state = SceneState(states, fxfycxcy, c2w, image_size, self.fingerprint(), focus, network=self)
        if scene is not None:
            state.normalised = scene.normalised
            state.from_capture = None if scene.from_capture is None else scene.from_capture[None]
        return state

    def render(
        self,
        state: SceneState,
        fxfycxcy: Array | CameraPath | PosedImages,
        c2w: Array | None = None,
        image_size: tuple[int, int] | None = None,
        chunk_views: int | None = None,
    ) -> Tensor:
        """Render views of a reconstructed scene.

        Args:
            state: from `reconstruct` of this model, or loaded.
            fxfycxcy: a camera path, or the views of a scene from `load_scene`, alone; or (b, v, 4) in pixels of the image to be
                rendered, without b for one scene. Arrays do as well as tensors.
            c2w: (b, v, 4, 4), in the frame of the input poses.
            image_size: (height, width), multiples of the patch; may differ from that of the inputs.
            chunk_views: views per chunk; None chooses by free memory.

        Returns:
            (b, v, 3, h, w) float32 in 0..1, without b where the cameras have none.

        Raises:
            InputError: see `render_stream`.

        Example:
            >>> import torch
            >>> from model import load_model, turntable
            >>> from model.camera_path import published_turntable
            >>> model = load_model(device="cpu")
            >>> inputs = published_turntable(3, (64, 64))
            >>> state = model.reconstruct(torch.rand(3, 3, 64, 64), inputs.fxfycxcy, inputs.c2w)
            >>> path = turntable(state, 5, (48, 80))
            >>> model.render(state, path).shape
            torch.Size([5, 3, 48, 80])
            >>> model.render(state, path.fxfycxcy[None], path.c2w[None], (48, 80)).shape
            torch.Size([1, 5, 3, 48, 80])
        """
        return torch.cat(list(self.render_stream(state, fxfycxcy, c2w, image_size, chunk_views)), dim=-4)

    def render_stream(
        self,
        state: SceneState,
        fxfycxcy: Array | CameraPath | PosedImages,
        c2w: Array | None = None,
        image_size: tuple[int, int] | None = None,
        chunk_views: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Tensor]:
        """Render views like `render`, but yield them in chunks (b, chunk, 3, h, w): a long video is never in memory as a whole.

        Args:
            cancelled: asked before each layer; once it returns true, the stream ends without the chunk in the works.

        Raises:
            InputError: shapes that do not fit each other or the patch, poses that are not rigid, or `chunk_views` below 1; a state
                written by other weights, with other tensors than this network's layers write, of another number of scenes, or
                without the focus that this network needs; views that are in another frame than the state.
        """
        if isinstance(fxfycxcy, PosedImages) and isinstance(state, SceneState):
            fxfycxcy.check_frame(state.normalised, state.from_capture)
        fxfycxcy, c2w, image_size = given_cameras(fxfycxcy, c2w, image_size, self.config.patch_size)
        batched = fxfycxcy.ndim == 3
        if not batched:
            fxfycxcy, c2w = fxfycxcy[None], c2w[None]
        self._check(fxfycxcy, c2w, image_size)
        b, v = fxfycxcy.shape[:2]
        self._check_state(state, b)
        bounds = self._chunks(b, v, image_size, chunk_views, keeps_tokens=False)
        # It may come from another machine, in another precision.
        state = state.to(self.device, self.compute_dtype)
        chunks = self._render_chunks(state, [(fxfycxcy[:, s], c2w[:, s]) for s in bounds], image_size, cancelled)
        return chunks if batched else (chunk[0] for chunk in chunks)

    def _render_chunks(
        self,
        state: SceneState,
        cameras: list[tuple[Tensor, Tensor]],
        image_size: tuple[int, int],
        cancelled: Callable[[], bool] | None,
    ) -> Iterator[Tensor]:
        for fxfycxcy, c2w in cameras:
            images = self._render_chunk(state, fxfycxcy, c2w, image_size, cancelled)
            if images is None:
                return
            yield images

    @torch.no_grad()
    def _render_chunk(
        self,
        state: SceneState,
        fxfycxcy: Tensor,
        c2w: Tensor,
        image_size: tuple[int, int],
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor | None:
        """Return the images of a chunk; None once `cancelled` returns true."""
        y = self.tokenise(fxfycxcy, c2w, image_size)
        addresses = self._addresses(fxfycxcy, c2w, image_size, state.focus)
        states = iter(state.layers)
        for block in self.block_list:
            for i, layer in enumerate(block.layers):
                if cancelled is not None and cancelled():
                    return None
                state_of_layer = next(states) if isinstance(layer, MixingLayer) else None
                y = self._pass(i, layer, state_of_layer, y, addresses, target=True)
        return self.decode(y, image_size)

    def _pass(
        self, i: int, layer: Layer, state: State | None, x: Tensor, addresses: Addresses | None, target: bool = False
    ) -> Tensor:
        """Apply layer `i` of a block to tokens `x` in place, reading `state` if it mixes views; return them."""
        if isinstance(layer, LocalLayer):
            return self._run(layer, x)
        assert state is not None
        return self._read(layer, x, state, target, _of_layer(addresses, i))

    @property
    def _needs_focus(self) -> bool:
        configs = [layer.params.get("address") for layer in self.config.block]
        return any(config is not None and config.phases == "foot" for config in configs)

    @property
    def _address_bytes(self) -> int:
        """Upper bound, in bytes, of the addresses of a token."""
        return sum(4 * layer.params["head_dim"] for layer in self.config.block if "address" in layer.params)

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

    def _check_state(self, state: SceneState, b: int) -> None:
        if not isinstance(state, SceneState):
            raise InputError("scene state", f"is {with_article(type(state))}", "what reconstruct or SceneState.load returns")
        if state.model != self.fingerprint():
            raise InputError("scene state", f"was written by weights {state.model:.80}", f"{self.fingerprint()}, the ones loaded")
        scenes, views = state.fxfycxcy.shape[:2]
        if scenes != b:
            raise InputError("scene state", f"holds {counted(scenes, 'scene')}", f"{b}, as many as the new cameras have")
        if self._needs_focus and state.focus is None:
            raise InputError("scene state", "holds no focus, which this network's config needs", "a state written by this network")
        key = b, views * math.prod(state.image_size) // self.config.patch_size**2
        if key not in self._state_shapes:
            self._state_shapes[key] = state_shapes(self.config.block, self.config.dim, *key) * self.config.layers
        state.check_layers(self._state_shapes[key])

    def _shares(self, x: Tensor, image_size: tuple[int, int]) -> Shares | None:
        """Return how views and tokens are split over the processes of the context; `x` (b, v, …): input views of this one."""
        if self.context is None or self.context.size == 1:
            return None
        b, v = x.shape[:2]
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
