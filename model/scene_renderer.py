"""Rendering of new views from scene states.

Letters: b scenes, v views, h w pixels.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from config import NetworkConfig
from config.errors import InputError
from config.messages import counted, with_article
from model.backbone import Backbone
from model.camera_path import CameraPath
from model.given import Array, given_cameras
from model.layers import MixingLayer
from model.layers.block import Shapes, StateShapes
from model.posed_images import PosedImages
from model.scene_state import SceneState


class SceneRenderer(Backbone):
    """The backbone with its passes over new views."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self._state_shapes: dict[int, StateShapes] = {}

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

    def _check_state(self, state: SceneState, b: int | None = None) -> None:
        if not isinstance(state, SceneState):
            raise InputError("scene state", f"is {with_article(type(state))}", "what reconstruct or SceneState.load returns")
        if state.model != self.fingerprint():
            raise InputError("scene state", f"was written by weights {state.model:.80}", f"{self.fingerprint()}, the ones loaded")
        scenes, views = state.fxfycxcy.shape[:2]
        if b is not None and scenes != b:
            raise InputError("scene state", f"holds {counted(scenes, 'scene')}", f"{b}, as many as the new cameras have")
        if self._needs_focus and state.focus is None:
            raise InputError("scene state", "holds no focus, which this network's config needs", "a state written by this network")
        state.check_layers(self._shapes(scenes, views, state.image_size)[0])

    def _shapes(self, b: int, views: int, image_size: tuple[int, int]) -> tuple[list[Shapes], list[Shapes]]:
        """Return the shapes of the tensors of all layers' states, and of their sums, for b scenes of as many views."""
        # Other threads may put those of another b there in between.
        shapes = self._state_shapes.get(b) or StateShapes(self.config.block, self.config.dim, b)
        self._state_shapes = {b: shapes}
        states, sums = shapes.at(views * math.prod(image_size) // self.config.patch_size**2)
        return states * self.config.layers, sums * self.config.layers
