"""Views of a scene as they come, in chunks.

Letters: v views, h w pixels.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import counted, shown, with_article
from model.checks import check_views
from model.given import Array
from model.posed_images import PosedImages

# One view, or some: image, fxfycxcy and c2w. Loaders make lists of tuples.
View = PosedImages | tuple[Array, Array, Array]
WHERE = "reconstruct_stream, views"
VIEWS = "PosedImages, or tuples of image (3, h, w), fxfycxcy (4) and c2w (4, 4)"


def check_count(number: int, where: str) -> None:
    """Check a number of views or passes.

    Raises:
        InputError: it is not a whole number of 1 or more.
    """
    if type(number) is not int or number < 1:
        raise InputError(where, f"is {shown(number)}", "a whole number, 1 or more")


def in_chunks(views: Iterable[View], first_size: int, size: int, patch_size: int) -> Iterator[PosedImages]:
    """Regroup views, as they come, into chunks; the last may be smaller. No more than a chunk and an item is in memory.

    Args:
        views: items of any number of views.
        first_size: of the first chunk.
        size: of the others.
        patch_size: of the network that will read them.

    Yields:
        a chunk, as soon as it is full.

    Raises:
        InputError: an item is something else, or of another size or in another frame than the first.
    """
    waiting: list[PosedImages] = []
    first: PosedImages | None = None
    for i, item in enumerate(_iterated(views)):
        found = _posed(item, patch_size, f"{WHERE}, item {i}")
        if not len(found):
            continue
        first = first or part_of(found, slice(0, 1))
        if found.image_size != first.image_size:
            sizes = ["{}×{}".format(*size) for size in (found.image_size, first.image_size)]
            raise InputError(f"{WHERE}, item {i}", f"is of {sizes[0]} (h×w)", f"{sizes[1]}, as the first")
        found.check_frame(first.normalised, first.from_capture)
        waiting.append(found)
        while sum(map(len, waiting)) >= first_size:
            joined = _joined(waiting)
            yield part_of(joined, slice(0, first_size))
            waiting = [part_of(joined, slice(first_size, None))]
            first_size = size
    if sum(map(len, waiting)):
        yield _joined(waiting)


def again(parts: Iterable[PosedImages], c2w: Tensor, before: int, progress: Callable[[int], None] | None) -> Iterator[PosedImages]:
    """Yield the chunks of another pass.

    Args:
        parts: the chunks.
        c2w: (v, 4, 4), of the views, the first time.
        before: number of views in all earlier passes.
        progress: called after each chunk with the number of views read in all passes.

    Raises:
        InputError: there are more views, fewer, or others.
    """
    read, count = 0, len(c2w)
    for part in parts:
        known = c2w[read : read + len(part)]
        read += len(part)
        if read > count:
            raise InputError(WHERE, "holds more the second time", f"{counted(count, 'view')}, as the first time")
        if not torch.allclose(part.c2w.to(known), known):
            raise InputError(WHERE, "holds other views, or in another order, the second time", "the same, as the first time")
        yield part
        if progress:
            progress(before + read)
    if read < count:
        raise InputError(WHERE, f"holds {read} the second time", f"{counted(count, 'view')}, as the first time")


def part_of(scene: PosedImages, views: slice) -> PosedImages:
    """Return some of the views of a scene."""
    arrays = {name: getattr(scene, name)[views] for name in ("image", "fxfycxcy", "c2w")}
    return dataclasses.replace(scene, **arrays, views=scene.views[views])


def _iterated(views: Iterable[View]) -> Iterator[View]:
    if isinstance(views, PosedImages):
        return iter([views])
    try:
        # Not by isinstance: a dataset has __getitem__ alone.
        return iter({} if isinstance(views, (str, dict, Tensor)) else views)
    except TypeError:
        raise InputError(WHERE, f"is {with_article(type(views))}", f"an iterable of {VIEWS}") from None


def _posed(item: Any, patch_size: int, where: str) -> PosedImages:
    """Return an item as checked posed images of one scene, on their device."""
    arrays = (item.image, item.fxfycxcy, item.c2w) if isinstance(item, PosedImages) else item
    if not isinstance(arrays, (tuple, list)) or len(arrays) != 3:
        raise InputError(where, f"is {with_article(type(item))}", VIEWS)
    image, fxfycxcy, c2w = arrays
    if getattr(image, "ndim", None) == 3:
        image, fxfycxcy, c2w = (array[None] if hasattr(array, "ndim") else array for array in arrays)
    image, fxfycxcy, c2w = check_views(image, fxfycxcy, c2w, patch_size, where)
    if image.ndim != 4:
        raise InputError(where, f"is {tuple(image.shape)}", "views of one scene, without a dimension for scenes")
    if isinstance(item, PosedImages):
        return dataclasses.replace(item, image=image, fxfycxcy=fxfycxcy, c2w=c2w)
    return PosedImages(image, fxfycxcy, c2w)


def _joined(scenes: list[PosedImages]) -> PosedImages:
    if len(scenes) == 1:
        return scenes[0]
    arrays = {name: torch.cat([getattr(scene, name) for scene in scenes]) for name in ("image", "fxfycxcy", "c2w")}
    return dataclasses.replace(scenes[0], **arrays, views=[view for scene in scenes for view in scene.views])
