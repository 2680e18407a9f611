"""MP4 encoder, on PyAV, which is optional on machines that only train.

PyAV itself, not imageio's plugin for it (2.38): that streams frames and puts the index in front, but cannot set the encoder's
quality or tag the colours as BT.709, without which players guess them by the height; three tests of videos fail with it.

Letters: h w pixels. Frames are (h, w, 3) uint8, sRGB.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

# x264's constant rate factor: 18 is considered visually lossless; one less for smooth gradients, which band first.
_QUALITY = "17"
# Without x264's macroblock tree: with it and AVX-512, the same small frames are encoded differently in almost every process (12 of
# 64×64, PyAV 18.1: 6 processes, 6 results; without the tree, or without AVX-512, one).
_REPRODUCIBLE = "mbtree=0"


class Mp4Encoder:
    """H.264, yuv420p, BT.709 limited range. An odd height or width is padded by one row or column, a copy of the last."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        self._path, self._fps = path, fps
        self._container: OutputContainer | None = None
        self._count = 0

    def write(self, frame: np.ndarray) -> None:
        h, w, _ = frame.shape
        frame = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._container = self._open(*frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self._count += 1

    def close(self, whole: bool) -> None:
        if self._container is None:
            return
        if whole:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def _open(self, h: int, w: int) -> OutputContainer:
        container = av.open(str(self._path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = container.add_stream("libx264", rate=self._fps, options={"crf": _QUALITY, "x264-params": _REPRODUCIBLE})
        self._stream.width, self._stream.height, self._stream.pix_fmt = w, h, "yuv420p"
        codec = self._stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return container
