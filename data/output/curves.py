"""Plots of curves as PNG, drawn with Pillow: loss and PSNR of a training run, or any others."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from data.files import replace_when_finished

SIZE = (480, 960)
MARGIN = {"left": 72, "right": 24, "top": 34, "bottom": 40}
INK, GRID, SHADE, TRAIN, VALIDATION = "#202020", "#e2e2e2", "#f3efe2", "#3b6ea8", "#c2502e"
TICKS = 5

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: text above the axes.
        curves: (name, colour, points).
        log: make the vertical axis logarithmic.
        span: shaded interval of the horizontal axis.
    """

    title: str
    curves: Sequence[tuple[str, str, Points]]
    log: bool = False
    span: tuple[float, float] | None = None


def draw_curves(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Draw a training log.

    Args:
        path: the PNG.
        rows: of `model.training.log`; `loss`, `psnr` and `val_psnr` are drawn over `step`.
    """
    panels = [
        Panel("loss", [("training", TRAIN, series(rows, "loss"))], log=True),
        Panel("PSNR, dB", [("training", TRAIN, series(rows, "psnr")), ("validation", VALIDATION, series(rows, "val_psnr"))]),
    ]
    draw_panels(path, panels)


def draw_panels(path: str | os.PathLike, panels: Sequence[Panel]) -> None:
    """Draw panels one below the other.

    Args:
        path: the PNG.
        panels: at least one.
    """
    h, w = SIZE
    image = Image.new("RGB", (w, h * len(panels)), "white")
    for i, panel in enumerate(panels):
        _draw(image, panel, top=i * h)
    with replace_when_finished(path) as temporary:
        image.save(temporary, format="PNG")


def series(rows: Sequence[dict], name: str) -> Points:
    """Return (step, value) of the rows that have a value of this name."""
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Return round values inside low..high: multiples of 1, 2 or 5 times a power of ten; with `log` at 1, 2 and 5 of each."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        found = [value for value in found if low <= value <= high]
        return found[:: -(-len(found) // (2 * TICKS))] if found else [low]
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw(image: Image.Image, panel: Panel, top: int) -> None:
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    h, w = SIZE
    left, right = MARGIN["left"], w - MARGIN["right"]
    upper, lower = top + MARGIN["top"], top + h - MARGIN["bottom"]
    points = [point for _, _, curve in panel.curves for point in curve if not panel.log or point[1] > 0]
    draw.text((left, top + 8), panel.title, INK, font)
    if not points:
        draw.text((left, (upper + lower) / 2), "nothing logged", INK, font)
        return
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points], panel.log)

    def x_px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def y_px(y: float) -> float:
        low, high, y = (math.log(value) if panel.log else value for value in (y_low, y_high, y))
        return lower - (y - low) / (high - low) * (lower - upper)

    if panel.span is not None:
        low, high = (min(max(x, x_low), x_high) for x in panel.span)
        draw.rectangle((x_px(low), upper, x_px(high), lower), SHADE)
    for y in ticks(y_low, y_high, panel.log):
        draw.line([(left, y_px(y)), (right, y_px(y))], GRID)
        draw.text((left - 8, y_px(y)), f"{y:.4g}", INK, font, anchor="rm")
    for x in ticks(x_low, x_high):
        draw.line([(x_px(x), upper), (x_px(x), lower)], GRID)
        draw.text((x_px(x), lower + 8), f"{x:g}", INK, font, anchor="mt")
    draw.line([(left, upper), (left, lower), (right, lower)], INK)
    at = right
    for name, colour, curve in panel.curves:
        pixels = [(x_px(x), y_px(y)) for x, y in curve if not panel.log or y > 0]
        if len(pixels) > 1:
            draw.line(pixels, colour, 2, joint="curve")
        for x, y in pixels if len(pixels) < 100 else pixels[-1:]:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
        if pixels:
            text = f"{name} {curve[-1][1]:.4g}"
            draw.text((at, top + 8), text, colour, font, anchor="ra")
            at -= font.getlength(text) + 24


def _range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Return an interval of non-zero width around all values."""
    low, high = min(values), max(values)
    if log:
        return low / 1.1, high * 1.1
    room = (high - low) * 0.05 or abs(low) * 0.05 or 1.0
    return low - room, high + room
