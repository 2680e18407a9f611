"""Overview pictures: renderings next to photos, contact sheets, plots of cameras. PNG, drawn with Pillow alone.

Letters: v views, h w pixels. Images are (h, w, 3) uint8, sRGB. No picture has a side above 2000 pixels.
"""

import functools
import math
import os
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from config.messages import counted
from data.files import replace_when_finished
from data.output.camera_drawing import CAMERA_COLOUR, LOOKED_AT_COLOUR, MARK_COLOUR, CameraDrawing, axis_name

_LIMIT, _MARGIN, _GAP = 2000, 32, 10
_WIDEST = _LIMIT - 2 * _MARGIN
_CAPTION, _CAPTION_SIZE = 24, 16
_PAPER, _INK, _FAINT = (247, 247, 245), (38, 38, 42), (112, 112, 118)
_WARNING = MARK_COLOUR
# Most inputs and targets in a comparison, and the error at which its colours saturate.
MOST_INPUTS, MOST_TARGETS, ERROR_SCALE = 16, 6, 0.2
# Smaller images are enlarged, by whole factors, so that their pixels are visible.
_SMALLEST = 160


def comparison(
    path: str | os.PathLike,
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    rendered: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    title: str = "",
    note: str = "",
) -> None:
    """Draw a scene: its input photos, then every target next to its rendering and the error between the two.

    Args:
        path: the PNG to write.
        inputs: v images of any sizes; if more than 16, evenly spaced ones are shown.
        targets, rendered: the same number of images, at least one, all of one size; if more than `MOST_TARGETS`, likewise.
        captions: one per target, under its rendering; by default its PSNR in dB.
        title: first line.
        note: second line, in the colour of warnings.

    The error is the mean over channels of the absolute difference in 0..1; its colours saturate at 0.2.

    Raises:
        ValueError: no target, unequal numbers or sizes, or an image that is not (h, w, 3) uint8.
    """
    if len(targets) == 0 or not len(targets) == len(rendered) == len(captions or targets):
        counts = f"{len(targets)} targets, {len(rendered)} renderings, {len(captions or targets)} captions"
        raise ValueError(f"{path}: {counts}; wanted the same number of each, at least one")
    _check_images(path, "input", inputs)
    _check_images(path, "target", targets, targets[0].shape)
    _check_images(path, "rendering", rendered, targets[0].shape)
    parts = [_text(title, 30), _text(note, 20, _WARNING)]
    if len(inputs):
        photos = [inputs[view] for view in evenly(len(inputs), MOST_INPUTS)]
        parts += [_text(_count(len(photos), len(inputs), "input"), 20), _photo_grid(photos)]
    shown = evenly(len(targets), MOST_TARGETS)
    parts.append(_text(_count(len(shown), len(targets), "target"), 20))
    blocks, side = _blocks(len(shown), _WIDEST - 80 - _column(parts, 16).height, *targets[0].shape[:2])
    strips = []
    for view in shown:
        difference, error = targets[view].astype(np.float32) - rendered[view], error_map(targets[view], rendered[view])
        caption = captions[view] if captions else f"{-10 * math.log10(max((difference**2).mean() / 255**2, 1e-10)):.2f} dB"
        cells = [
            _cell(targets[view], f"target {view + 1}", side),
            _cell(rendered[view], f"rendered · {caption}", side),
            _cell(heat_map(error), f"error · mean {error.mean():.3f}", side),
        ]
        strips.append(_row(cells, _GAP))
    parts.append(_grid(strips, blocks, 3 * _GAP, 12))
    parts.append(_legend())
    _save(path, _column(parts, 16))


def contact_sheet(
    path: str | os.PathLike,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str,
    marked: Collection[int] = (),
    note: str = "",
) -> None:
    """Draw images in a grid, as large as fits, each with its caption below.

    Args:
        path: the PNG to write.
        images: of any sizes.
        captions: one for each.
        title: first line.
        marked: numbers of images that get a frame, and their caption, in the colour of warnings.
        note: second line, in that colour.

    Raises:
        ValueError: no image, an image that is not (h, w, 3) uint8, or not one caption per image.
    """
    if len(images) == 0 or len(captions) != len(images):
        counts = f"{len(images)} images, {len(captions)} captions"
        raise ValueError(f"{path}: {counts}; wanted the same number of each, at least one")
    _check_images(path, "image", images)
    h, w = max((image.shape[:2] for image in images), key=lambda size: size[0] / size[1])
    box = (_WIDEST, _WIDEST - (90 if note else 60))

    def quality(columns: int) -> tuple[int, float]:
        rows = math.ceil(len(images) / columns)
        return _side(box, columns, rows, h, w), -abs(math.log(columns * w / (rows * h) / 1.4))

    columns = max(range(1, len(images) + 1), key=quality)
    side = quality(columns)[0]
    cells = [
        _cell(image, text, side, _WARNING if number in marked else None)
        for number, (image, text) in enumerate(zip(images, captions, strict=True))
    ]
    _save(path, _column([_text(title, 30), _text(note, 20, _WARNING), _grid(cells, columns, _GAP)], 16))


def camera_plot(
    path: str | os.PathLike,
    c2w: np.ndarray,
    fxfycxcy: np.ndarray,
    image_size: tuple[int, int],
    title: str = "",
    marked: Collection[int] = (),
    note: str = "",
) -> None:
    """Draw the cameras as pyramids from above and from the side, at one scale. The cross marks the world's origin.

    Up is the world axis that is most opposed to the mean of the cameras' y. Cameras get darker along the list; a line connects them
    where it is the path of a walk. A circle marks the point that the cameras look at, if they look at one.

    Args:
        path: the PNG to write.
        c2w: (v, 4, 4) world from camera, OpenCV axes.
        fxfycxcy: (v, 4) pixels.
        image_size: (h, w).
        title: first line.
        marked: numbers of cameras in the colour of warnings.
        note: second line, in that colour.

    Raises:
        ValueError: no camera, shapes that do not match, or a value that is not finite.
    """
    c2w, fxfycxcy = np.asarray(c2w, np.float64), np.asarray(fxfycxcy, np.float64)
    if len(c2w) == 0 or c2w.shape[1:] != (4, 4) or fxfycxcy.shape != (len(c2w), 4):
        shapes = f"c2w is {c2w.shape}, fxfycxcy {fxfycxcy.shape}"
        raise ValueError(f"{path}: {shapes}; wanted (v, 4, 4) and (v, 4) with one camera or more")
    if not (np.isfinite(c2w).all() and np.isfinite(fxfycxcy).all()):
        raise ValueError(f"{path}: a camera holds a value that is not finite; wanted finite cameras")
    drawing = CameraDrawing(c2w, fxfycxcy, image_size, marked)
    panels = []
    for name, plane in (("from above", (0, 1)), ("from the side", (0, 2))):
        across, upwards = (axis_name(drawing.axes[row]) for row in plane)
        words = _text(f"{name}: {across} to the right, {upwards} up", 17, _FAINT)
        panels.append(_column([words, drawing.panel(plane)], _GAP))
    order = ", from the palest to the darkest" if len(c2w) > 1 else ""
    legend = [_text(_count(len(c2w), len(c2w), "camera") + order, 20, CAMERA_COLOUR)]
    if drawing.looked_at is not None:
        legend.append(_text("o  the point they look at", 20, LOOKED_AT_COLOUR))
    legend.append(_scale_bar(drawing.scale))
    _save(path, _column([_text(title, 30), _text(note, 20, _WARNING), _row(legend, 30), _row(panels, 4 * _GAP)], 18))


def error_map(target: np.ndarray, rendered: np.ndarray) -> np.ndarray:
    """Return the error (h, w) float32 of each pixel: the mean over channels of the absolute difference, 0..1."""
    return np.abs(target.astype(np.float32) - rendered).mean(-1) / 255


def heat_map(error: np.ndarray) -> np.ndarray:
    """Return the colours (h, w, 3) uint8 of errors (h, w); they saturate at `ERROR_SCALE`."""
    return colour_table()[np.rint(255 * (error / ERROR_SCALE).clip(0, 1)).astype(np.uint8)]


@functools.cache
def colour_table() -> np.ndarray:
    """Return 256 colours (256, 3) uint8 from near black through violet and red to pale yellow.

    Lightness rises evenly: equal steps of error look equal, in greyscale too.
    Source: a curve in Oklab (Ottosson 2020) that stays inside sRGB.
    """
    t = np.linspace(0, 1, 256)
    lightness, hue, chroma = 0.14 + 0.83 * t, np.deg2rad(270 + 195 * t), 0.02 + 0.17 * np.sin(np.pi * t**0.9)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    linear = np.stack([red, green, blue], axis=-1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the first `count` numbers, evenly spaced from the first to the last."""
    return sorted({round(view) for view in np.linspace(0, count - 1, min(count, most))})


def _check_images(path: str | os.PathLike, what: str, images: Sequence[np.ndarray], shape: tuple[int, ...] | None = None) -> None:
    for view, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"{path}: {what} {view} is {image.shape} {image.dtype}; wanted (h, w, 3) uint8")
        if shape is not None and image.shape != shape:
            raise ValueError(f"{path}: {what} {view} is {image.shape}; wanted {shape}, the first target's")


def _count(shown: int, count: int, what: str) -> str:
    return counted(count, what) + (f", {shown} of them shown" if shown < count else "")


def _side(box: tuple[int, int], columns: int, rows: int, h: int, w: int) -> int:
    """Return the width at which columns × rows images (h, w) with captions fill a box: at most w, or a multiple if w is small."""
    side = min((box[0] + _GAP) / columns - _GAP, ((box[1] + _GAP) / rows - _GAP - _CAPTION) * w / h)
    if side >= w:
        side = w * max(1, min(math.ceil(_SMALLEST / w), int(side / w)))
    return max(1, int(side))


def _blocks(count: int, height: int, h: int, w: int) -> tuple[int, int]:
    """Return how many strips of three images go side by side, and the image width: large images on a full page."""

    def side(blocks: int) -> int:
        return _side((_WIDEST, height), 3 * blocks, math.ceil(count / blocks), h, w)

    best = max(range(1, min(count, 3) + 1), key=lambda blocks: side(blocks) * math.sqrt(blocks * side(blocks)))
    return best, side(best)


def _photo_grid(photos: list[np.ndarray]) -> Image.Image:
    """Return the input photos in one row, or in two from nine on."""
    rows = 1 if len(photos) <= 8 else 2
    columns = math.ceil(len(photos) / rows)
    h, w = max((photo.shape[:2] for photo in photos), key=lambda size: size[0] / size[1])
    side = _side((_WIDEST, 280 * rows), columns, rows, h, w)
    return _grid([_cell(photo, "", side) for photo in photos], columns, _GAP)


def _cell(image: np.ndarray, caption: str, side: int, mark: tuple[int, int, int] | None = None) -> Image.Image:
    """Return an image `side` pixels wide with its caption, framed if it has a mark's colour."""
    h, w = image.shape[:2]
    size = (side, max(1, round(side * h / w)))
    picture = Image.fromarray(image).resize(size, Image.Resampling.NEAREST if side > w else Image.Resampling.LANCZOS)
    if mark is not None:
        ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=mark, width=min(5, max(1, side // 12)))
    return _column([picture, _text(caption, _CAPTION_SIZE, mark or _INK, width=side)], 3)


def _text(text: str, size: int, colour: tuple[int, int, int] = _INK, width: int = _WIDEST) -> Image.Image:
    """Return a line of text, cut with an ellipsis where it is wider than `width`; an empty image for no text."""
    if not text:
        return Image.new("RGB", (0, 0))
    font = ImageFont.load_default(size)
    text = text.replace("×", "x")  # the font lacks the sign
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-2] + "…"
    image = Image.new("RGB", (math.ceil(font.getlength(text)), round(1.25 * size)), _PAPER)
    ImageDraw.Draw(image).text((0, size), text, fill=colour, font=font, anchor="ls")
    return image


def _column(images: list[Image.Image], gap: int) -> Image.Image:
    return _grid([image for image in images if image.height], 1, gap)


def _row(images: list[Image.Image], gap: int) -> Image.Image:
    return _grid(images, len(images), gap)


def _grid(images: list[Image.Image], columns: int, gap: int, row_gap: int | None = None) -> Image.Image:
    """Return images in rows, left and top aligned; a column is as wide as its widest, a row as high as its highest."""
    widths = [max(image.width for image in images[column::columns]) for column in range(columns)]
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.height for image in row) for row in rows]
    row_gap = gap if row_gap is None else row_gap
    page = Image.new("RGB", (sum(widths) + gap * (columns - 1), sum(heights) + row_gap * (len(rows) - 1)), _PAPER)
    for index, row in enumerate(rows):
        for column, image in enumerate(row):
            page.paste(image, (sum(widths[:column]) + gap * column, sum(heights[:index]) + row_gap * index))
    return page


def _legend() -> Image.Image:
    bar = Image.fromarray(np.repeat(colour_table()[None], 16, axis=0))
    ends = [_text("error 0", _CAPTION_SIZE, _FAINT), bar, _text(f"{ERROR_SCALE:g} or more", _CAPTION_SIZE, _FAINT)]
    words = _text("mean over the channels of |target - rendered|, white is 1", _CAPTION_SIZE, _FAINT)
    return _row([*ends, words], 12)


def _scale_bar(scale: float) -> Image.Image:
    """Return a bar of a round length between 60 and 150 pixels, with that length in world units."""
    power = 10.0 ** math.floor(math.log10(150 / scale))
    length = max(step * power for step in (1, 2, 5) if step * power * scale <= 150)
    bar = Image.new("RGB", (round(length * scale), 20), _PAPER)
    ImageDraw.Draw(bar).line([(0, 6), (0, 18), (bar.width - 1, 18), (bar.width - 1, 6)], fill=_INK, width=2)
    return _row([bar, _text(f"{length:g} unit{'s' * (length != 1)}", 17, _FAINT)], 8)


def _save(path: str | os.PathLike, content: Image.Image) -> None:
    page = Image.new("RGB", (content.width + 2 * _MARGIN, content.height + 2 * _MARGIN), _PAPER)
    page.paste(content, (_MARGIN, _MARGIN))
    page.thumbnail((_LIMIT, _LIMIT), Image.Resampling.LANCZOS)
    with replace_when_finished(path) as temporary:
        page.save(temporary, format="PNG")
