"""The LaCT-LVSM network: posed images become scene states, which grow by further views, and from which new views are rendered.

Letters: b scenes, v views, h w pixels, p patch side, t = h·w/p² tokens of a view, d token width.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import shown, with_article
from model.given import Array, given_focus, given_views, warn_of_departure
from model.layers import State, Sums
from model.parallel.context import own_inputs
from model.posed_images import PosedImages
from model.scene_renderer import SceneRenderer
from model.scene_state import SceneState
from model.scene_writer import Batch, SceneWriter, Written, find_cameras
from model.view_chunks import WHERE, View, again, check_count, in_chunks, part_of

# Views of a stream whose focus is fitting for those that follow, as a rule: with one, 4 to 8 dB are lost.
FIRST_VIEWS = 8


class LaCTLVSM(SceneWriter, SceneRenderer):
    """Novel view synthesis by large-chunk test-time training on an LVSM-style transformer.

    Args:
        config: the network config.

    Attributes:
        activation_checkpointing: recompute each block in the backward pass of `forward` instead of keeping its results.
        context: processes that share the views of each scene. `forward`, `reconstruct` and `extend` are then collective: every
            process passes its own views (possibly none) and gets its own targets, or the state of all views.
        trained_with: settings that the weights were trained with, as far as they are known.

    Raises:
        InputError: the config names an unknown layer or parameter, or widths that do not divide.

    Precision: tokens, rays, tokenisation and decoding in float32; layers in the compute dtype, see `set_compute_dtype`.
    Source: LaCT (arXiv 2505.23884), LVSM (arXiv 2410.17242). The parameters' names are those of the published checkpoints.
    """

    @torch.no_grad()
    def reconstruct(
        self,
        image: Array | PosedImages,
        fxfycxcy: Array | None = None,
        c2w: Array | None = None,
        chunk_views: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        keep_sums: bool = False,
        focus: Array | None = None,
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
            keep_sums: keep what `extend` and `forget` need: float32 sums of gradients, twice the bytes of a bfloat16 state.
            focus: ([b,] 3) the point that addresses refer to; None: where these views look. Of use where other views will follow.

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
        views = Batch(*given_views(image, fxfycxcy, c2w, self.config.patch_size, "reconstruct"))
        if scene is not None:
            warn_of_departure(scene, self.trained_with)
        state = self._written(views, chunk_views, progress, keep_sums, given_focus(focus, len(views.c2w)))
        return state if scene is None else _in_frame_of(state, scene)

    @torch.no_grad()
    def extend(
        self,
        state: SceneState,
        image: Array | PosedImages,
        fxfycxcy: Array | None = None,
        c2w: Array | None = None,
        chunk_views: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SceneState:
        """Write further views of a scene into its state, in the time that they alone take.

        The new views pass through every layer as it is once they have written into it; what earlier views wrote stays as it was
        when they came, so the result is not quite that of reconstructing all views together: see model/STREAMING.md.

        Args:
            state: of `reconstruct` with `keep_sums`, of `extend` or `reconstruct_stream`, or loaded from a file of one; unchanged.
            image, fxfycxcy, c2w: as of `reconstruct`, of the state's size and frame.
            chunk_views, progress: as of `reconstruct`.

        Returns:
            the state of all views, with sums, of the state's focus.

        Raises:
            InputError: as `reconstruct`; or a state of other weights, without sums, of another number of scenes, or views of
                another size or in another frame.

        Cost: memory for b·v·t·d float32 tokens of the new views alone; for layers of attention over the scene, also a copy of
        their part of the state.

        Example:
            >>> from model import load_model, load_scene
            >>> model = load_model(device="cpu", precision="float32")
            >>> scene = "data_example/objects_1000003_000060"
            >>> state = model.reconstruct(load_scene(scene, views=[0, 8, 16], model=model), keep_sums=True)
            >>> model.extend(state, load_scene(scene, views=[4], model=model))
            SceneState(4 views of 64×64, object, 6.3 MB)
        """
        views, held = self._further_views(state, image, fxfycxcy, c2w, "extend")
        new = self._written(views, chunk_views, progress, True, state.focus, held)
        cameras = torch.cat([state.fxfycxcy.to(new.c2w), new.fxfycxcy], 1), torch.cat([state.c2w.to(new.c2w), new.c2w], 1)
        return self._replaced(state, new.layers, new.sums, *cameras)

    @torch.no_grad()
    def forget(
        self,
        state: SceneState,
        image: Array | PosedImages,
        fxfycxcy: Array | None = None,
        c2w: Array | None = None,
        chunk_views: int | None = None,
    ) -> SceneState:
        """Take views of a scene out of its state, in the time that they alone take.

        What these views would write now is subtracted. It is what they wrote, up to rounding, where they came last or the state was
        reconstructed from all views together; else the difference stays, and adds up where views come and go again and again. What
        other views wrote stays as it was when they read these, too. See model/STREAMING.md.

        Args:
            state: as of `extend`; unchanged.
            image, fxfycxcy, c2w: the views, as they were written; some others must remain. In a context of several processes,
                each passes all of them.
            chunk_views: as of `reconstruct`.

        Returns:
            the state of the other views, with sums, of the state's focus.

        Raises:
            InputError: as `extend`; or views whose cameras are not in the state.

        Example:
            >>> from model import load_model, load_scene
            >>> model = load_model(device="cpu", precision="float32")
            >>> scene = "data_example/objects_1000003_000060"
            >>> state = model.reconstruct(load_scene(scene, views=[0, 4, 8, 16], model=model), keep_sums=True)
            >>> model.forget(state, load_scene(scene, views=[4], model=model))
            SceneState(3 views of 64×64, object, 6.3 MB)
        """
        views, held = self._further_views(state, image, fxfycxcy, c2w, "forget")
        v, n = views.c2w.shape[1], state.c2w.shape[1]
        positions = find_cameras(views.c2w, views.fxfycxcy, (state.c2w, state.fxfycxcy))
        if None in positions:
            raise InputError(
                "forget", f"is given a view, number {positions.index(None)}, that the state does not hold", "its views"
            )
        if v == n:
            raise InputError("forget", f"is given all {n} views of the state", "some of them")
        kept = [i for i in range(n) if i not in positions]
        bounds = self._chunks(len(views.c2w), v, state.image_size, chunk_views, keeps_tokens=False)
        shares = self._sweep(views, bounds, state.focus, held.states, [None] * len(held.states))
        layers = enumerate(zip(self.mixing_layers, shares, strict=True))
        tokens = self._tokens_of(kept, state.image_size)
        rest = [layer.without(held.memory(layer, n), share, tokens) for n, (layer, share) in layers]
        return self._replaced(state, *self._finish(rest), state.fxfycxcy[:, kept], state.c2w[:, kept])

    @torch.no_grad()
    def reordered(self, state: SceneState, order: Sequence[int]) -> SceneState:
        """Return a state with its views in another order, as camera paths follow them: nothing else depends on it.

        Args:
            state: with sums; unchanged.
            order: positions of all views.

        Raises:
            InputError: a state of other weights or without sums, or positions that are not those of all views.
        """
        held, n = self._held(state), state.c2w.shape[1]
        try:
            order = [operator.index(view) for view in order]
        except TypeError:
            raise InputError("reordered, order", f"is {shown(order, 80)}", f"0 to {n - 1}, each once") from None
        if sorted(order) != list(range(n)):
            raise InputError("reordered, order", f"is {shown(order, 80)}", f"0 to {n - 1}, each once")
        tokens = self._tokens_of(order, state.image_size)
        # Layers with sums have none of single tokens.
        layers = [
            held.states[i] if held.sums[i] else layer.finish(layer.without(held.memory(layer, i), None, tokens))
            for i, layer in enumerate(self.mixing_layers)
        ]
        return self._replaced(state, layers, held.sums, state.fxfycxcy[:, order], state.c2w[:, order])

    @torch.no_grad()
    def reconstruct_stream(
        self,
        views: Iterable[View],
        chunk: int = 1,
        passes: int = 1,
        focus: Array | None = None,
        first: int | None = None,
        chunk_views: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> SceneState:
        """Write views into a scene state as they come: a chunk is read, written and dropped before the next.

        Memory does not grow with the number of views, but for the 80 bytes of a camera, and for layers of attention over the
        scene. The result is that of `reconstruct` where all views are one chunk; otherwise views do not see what comes after
        them, see `extend`. Least is lost where the first views, and so any that follow, are spread over the scene, as
        `data.view_selection.spread_order` puts them.

        Another pass lets all views read what all of them wrote in the pass before. The n-th mixing layer is exact, up to
        rounding, after n passes, since all that its views read until then is; with as many passes as there are such layers
        the whole state is. In the bundled networks of four such layers three passes are as good, two no better than one.

        Args:
            views: of one scene: `PosedImages` of any number of views, or tuples of image (3, h, w), fxfycxcy (4) and c2w (4, 4),
                or of several views with a first dimension for them. In a context of several processes all of them get the same
                views.
            chunk: views that are written together.
            passes: times that the views are read; more than one for views that can be iterated again.
            focus: (3) the point that addresses refer to; None: where the first chunk looks.
            first: views of the first chunk; None: as of the others, without a focus 8 at least, since few cameras say little of it.
            chunk_views: as of `reconstruct`, within a chunk.
            progress: called after each chunk with the number of views read, in all passes.

        Returns:
            the state, with sums.

        Raises:
            InputError: as `extend`; no views, or others, in number or order, in another pass; an iterator with several passes.

        Example:
            >>> from model import load_model, load_scene
            >>> model = load_model(device="cpu", precision="float32")
            >>> scene = load_scene("data_example/objects_1000003_000060", views=6, model=model)
            >>> model.reconstruct_stream(zip(scene.image, scene.fxfycxcy, scene.c2w), chunk=4)
            SceneState(6 views of 64×64, unknown frame, 6.3 MB)
        """
        check_count(chunk, "chunk")
        check_count(passes, "passes")
        if passes > 1 and isinstance(views, Iterator):
            raise InputError(WHERE, f"is {with_article(type(views))}, which can be read once", "a list, or passes=1")
        if first is None:
            first = chunk if focus is not None else max(chunk, FIRST_VIEWS)
        check_count(first, "first")
        sizes, state, read = (first, chunk, self.config.patch_size), None, 0
        for part in in_chunks(views, *sizes):
            own, read = self._own(part), read + len(part)
            if state is None:
                state = _in_frame_of(self._written(_batch(own), chunk_views, None, True, given_focus(focus, 1)), own)
            else:
                state = self.extend(state, own, chunk_views=chunk_views)
            if progress:
                progress(read)
        if state is None:
            raise InputError(WHERE, "holds no views", "at least one")
        for exact in range(1, min(passes, len(self.mixing_layers))):
            parts = again(in_chunks(views, *sizes), state.c2w[0], exact * read, progress)
            state = self._read_again(state, parts, exact, chunk_views)
        return state

    def _read_again(self, state: SceneState, parts: Iterable[PosedImages], exact: int, chunk_views: int | None) -> SceneState:
        """Let all views read what all of them wrote, and write into all mixing layers anew but for the first `exact`."""
        memories = [None] * (len(state.layers) - exact)
        start, count = 0, state.c2w.shape[1]
        # This time their number is known: each process has a range of views, and memories are joined in the order of the views.
        own = range(count) if self.context is None else own_inputs(count, self.context.rank, self.context.size)
        for part in parts:
            mine = part_of(part, slice(max(own.start - start, 0), max(own.stop - start, 0)))
            if len(mine) or start == 0:
                views, held = self._further_views(state, mine, None, None, "reconstruct_stream")
                bounds = self._chunks(1, len(mine), state.image_size, chunk_views, keeps_tokens=False)
                memories = self._sweep(views, bounds, state.focus, held.states, memories, exact)
            start += len(part)
        layers, sums = self._finish(memories, self._shares(1, len(own), state.image_size))
        before = state.layers[:exact], (state.sums or [])[:exact]
        return self._replaced(state, before[0] + layers, before[1] + sums, state.fxfycxcy, state.c2w)

    def _own(self, part: PosedImages) -> PosedImages:
        """Return this process's views of a chunk."""
        if self.context is None:
            return part
        own = own_inputs(len(part), self.context.rank, self.context.size)
        return part_of(part, slice(own.start, own.stop))

    def _written(
        self,
        views: Batch,
        chunk_views: int | None,
        progress: Callable[[int, int], None] | None,
        keep_sums: bool,
        focus: Tensor | None,
        held: Written | None = None,
    ) -> SceneState:
        """Return the state that holds these views, after what is held; its cameras are those of all processes' new views."""
        size = views.image_size
        self._check(views.fxfycxcy, views.c2w, size, views.image)
        b, v = views.c2w.shape[:2]
        bounds = self._chunks(b, v, size, chunk_views, keeps_tokens=True)
        shares = self._shares(b, v, size)
        if focus is None or not self._needs_focus:
            focus = self._focus(views.c2w, shares)
        written = self._write_views(views, bounds, focus, shares, held, keep_sums, progress)
        # Copies: a caller may write the next camera in place of these.
        fxfycxcy, c2w = (x.detach().to(torch.float32, copy=True) for x in (views.fxfycxcy, views.c2w))
        if shares is not None:
            fxfycxcy, c2w = shares.gather(fxfycxcy, shares.views), shares.gather(c2w, shares.views)
        return SceneState(written.states, fxfycxcy, c2w, size, self.fingerprint(), focus, network=self, sums=written.sums or None)

    def _further_views(
        self, state: SceneState, image: Array | PosedImages, fxfycxcy: Array | None, c2w: Array | None, where: str
    ) -> tuple[Batch, Written]:
        """Return checked views of the scene of a state, and what that state holds, on the model's device."""
        if isinstance(image, PosedImages) and isinstance(state, SceneState):
            image.check_frame(state.normalised, state.from_capture)
        views = Batch(*given_views(image, fxfycxcy, c2w, self.config.patch_size, where))
        self._check_state(state, len(views.c2w))
        if views.image_size != state.image_size:
            sizes = ["{}×{}".format(*size) for size in (views.image_size, state.image_size)]
            raise InputError(f"{where}, image", f"is of {sizes[0]} (h×w)", f"{sizes[1]}, as the state's views")
        return views, self._held(state)

    def _held(self, state: SceneState) -> Written:
        """Return what a state of this network holds, on its device."""
        self._check_state(state)
        b, v = state.c2w.shape[:2]
        sums = state.kept_sums(self._shapes(b, v, state.image_size)[1])
        layers = state.to(self.device, self.compute_dtype).layers
        tokens = v * math.prod(state.image_size) // self.config.patch_size**2
        return Written(layers, [{name: x.to(self.device) for name, x in layer.items()} for layer in sums], tokens)

    def _tokens_of(self, views: Sequence[int], image_size: tuple[int, int]) -> Tensor:
        """Return the positions of the tokens of some views among those of all."""
        t = math.prod(image_size) // self.config.patch_size**2
        return (torch.tensor(views)[:, None] * t + torch.arange(t)).flatten().to(self.device)

    def _replaced(
        self, state: SceneState, layers: list[State], sums: list[Sums] | None, fxfycxcy: Tensor, c2w: Tensor
    ) -> SceneState:
        """Return a state of other views of its scene."""
        return dataclasses.replace(state, layers=layers, sums=sums, fxfycxcy=fxfycxcy, c2w=c2w, network=self)


def _batch(part: PosedImages) -> Batch:
    return Batch(part.image[None], part.fxfycxcy[None], part.c2w[None])


def _in_frame_of(state: SceneState, scene: PosedImages) -> SceneState:
    """Return a state with what a scene says of its frame."""
    moved = None if scene.from_capture is None else scene.from_capture[None]
    return dataclasses.replace(state, normalised=scene.normalised, from_capture=moved)
