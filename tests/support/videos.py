"""Videos: read back, and written so that each frame shows its number. Letters: n frames, h w pixels."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from data.scene_format import CAMERAS, View, write_scene
from tests.support.scenes import random_c2w

# Bicubic, accurate rounding, full chroma: numbers of FFmpeg's swscale.h, since av 17 names only the first.
EXACT = 0x4 | 0x40000 | 0x2000
# A frame's number: bits as white blocks of this side, so many in a row.
_BITS, _BLOCK, _ACROSS = 12, 12, 4


def decode(path: Path) -> tuple[np.ndarray, dict[str, object]]:
    """Return a video's frames (n, h, w, 3), and the data of its header."""
    import av  # here, so that tests that read no video run without it

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        frames = [picture.to_ndarray(format="rgb24", interpolation=EXACT) for picture in pictures]
        codec = stream.codec_context
        facts = {
            "codec": codec.name,
            "format": codec.pix_fmt,
            "rate": stream.average_rate,
            "times": [picture.pts * picture.time_base for picture in pictures],
            "matrix": codec.colorspace,
            "range": codec.color_range,
            "primaries": codec.color_primaries,
            "transfer": codec.color_trc,
        }
    return np.stack(frames), facts


def write_frames(
    path: Path, n: int, size: tuple[int, int] = (40, 56), codec: str = "libx264", first: int = 0, **options: str
) -> None:
    """Write a video of n frames that show their number, `first` and up, for `number_in`, in front of a moving bar.

    Args:
        size: (h, w), 40×48 or more.
        codec: and its options, as FFmpeg names them.
    """
    import av

    h, w = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
        for i in range(first, first + n):
            pixels = np.full((h, w, 3), (90, 120, 60), np.uint8)
            pixels[:, 3 * i % w : 3 * i % w + 5] = (200, 80, 40)
            for bit in range(_BITS):
                row, column = divmod(bit, _ACROSS)
                pixels[_BLOCK * row : _BLOCK * (row + 1), _BLOCK * column : _BLOCK * (column + 1)] = 255 * (i >> bit & 1)
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = i - first, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def number_in(pixels: np.ndarray) -> int:
    """Return the number that a frame (h, w, 3) of `write_frames` shows."""
    centres = [
        (_BLOCK * row + _BLOCK // 2, _BLOCK * column + _BLOCK // 2)
        for row, column in (divmod(bit, _ACROSS) for bit in range(_BITS))
    ]
    return sum(int(pixels[centre].mean() > 128) << bit for bit, centre in enumerate(centres))


def write_video_scene(folder: Path, numbers: Sequence[int], size: tuple[int, int] = (40, 56), n: int | None = None) -> Path:
    """Write a scene whose photos are frames of its video clip.mp4; return its JSON.

    Args:
        numbers: of the frames, in the order of the views.
        size: (h, w).
        n: frames of the video; as many as `numbers` need by default.
    """
    h, w = size
    folder.mkdir(parents=True)
    write_frames(folder / "clip.mp4", max(numbers) + 1 if n is None else n, size)
    poses = np.linalg.inv(random_c2w(len(numbers)))
    views = [
        View(folder / "clip.mp4" / f"{number:06d}", w, h, w + i, w + 2 * i, w / 2 + 1, h / 2, pose)
        for i, (number, pose) in enumerate(zip(numbers, poses, strict=True))
    ]
    write_scene(folder / CAMERAS, views)
    return folder / CAMERAS
