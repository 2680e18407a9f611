"""Video files that play anywhere: H.264 in MP4, or looping GIF.

Letters: h w pixels. Frames are (h, w, 3) uint8, sRGB.
"""

import contextlib
import functools
import math
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.errors import InputError
from data.files import replace_when_finished

# Pixels sampled for a GIF's palette.
_PALETTE_SAMPLE = 500_000


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images to 8 bits, channels last.

    Args:
        images: (..., 3, h, w) float, 0..1; values outside are clamped.

    Returns:
        (..., h, w, 3) uint8, rounded to the nearest level.
    """
    levels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


class VideoWriter:
    """Video written frame by frame; the file appears under its name when the `with` block ends without an exception.

    MP4: H.264, yuv420p, BT.709 limited range, the index in front so that it plays while it loads. Frames go straight to
    the encoder. An odd height or width is padded by one row or column, a copy of the last. GIF: one palette for all
    frames, so that colours do not flicker; the frames stay in memory until the end. It loops forever, and every frame
    lasts the same whole number of hundredths of a second, at least two, so that its speed is only close to `fps`.

    Args:
        path: ends in .mp4 or .gif. Its folder is created.
        fps: frames per second, 0.1 to 240.

    Raises:
        InputError: another suffix, or MP4 without PyAV.
        ValueError: an fps outside 0.1..240; in `write`, a frame that is not (h, w, 3) uint8 of the first
            one's size; at the end of the block, no frame.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30.0) -> None:
        self.path = Path(path)
        encoder = find_encoder(self.path)
        if not 0.1 <= fps <= 240:
            raise ValueError(f"{path}: {fps} frames per second; wanted 0.1 to 240")
        self._new_encoder = functools.partial(encoder, fps=Fraction(fps).limit_denominator(1001))
        self._shape: tuple[int, ...] | None = None
        self._count = 0

    def __enter__(self) -> "VideoWriter":
        with contextlib.ExitStack() as stack:
            self._encoder = self._new_encoder(stack.enter_context(replace_when_finished(self.path)))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (h, w, 3) uint8."""
        shape = self._shape or frame.shape
        if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape or frame.shape != shape:
            wanted = " x ".join(map(str, self._shape or ("h", "w", 3)))
            raise ValueError(f"{self.path}: frame {self._count} is {frame.shape} {frame.dtype}; wanted {wanted} uint8")
        self._shape = shape
        self._encoder.write(frame)
        self._count += 1

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        self._encoder.close(whole=kind is None)
        if kind is None and self._count == 0:
            raise ValueError(f"{self.path}: no frame was written; wanted one or more")


class _GifEncoder:
    def __init__(self, path: Path, fps: Fraction) -> None:
        self._path = path
        # Players slow anything below two hundredths of a second down to ten hundredths.
        self._duration_ms = 10 * max(2, round(100 / fps))
        self._frames: list[np.ndarray] = []

    def write(self, frame: np.ndarray) -> None:
        self._frames.append(frame.copy())

    def close(self, whole: bool) -> None:
        if not whole or not self._frames:
            return
        pixels = len(self._frames) * self._frames[0].shape[0] * self._frames[0].shape[1]
        step = max(1, math.isqrt(pixels // _PALETTE_SAMPLE))
        sample = Image.fromarray(np.concatenate([frame[::step, ::step] for frame in self._frames]))
        palette = sample.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
        first, *rest = (Image.fromarray(frame).quantize(palette=palette) for frame in self._frames)
        first.save(self._path, save_all=True, append_images=rest, duration=self._duration_ms, loop=0)


def find_encoder(path: str | os.PathLike) -> type:
    """Return the encoder for a video's suffix.

    Raises:
        InputError: an unknown suffix, or PyAV, which MP4 needs, is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        return _GifEncoder
    if suffix != ".mp4":
        raise InputError(path, f"has the suffix {Path(path).suffix!r}", ".mp4 or .gif")
    try:
        from data.output.video_mp4 import Mp4Encoder
    except ImportError as error:
        raise InputError(path, "cannot be written: MP4 needs PyAV, which is not installed", "`pip install av`, or a GIF") from error
    return Mp4Encoder
