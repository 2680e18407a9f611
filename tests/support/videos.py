"""Videos read back."""

from pathlib import Path

import numpy as np

# Bicubic, accurate rounding, full chroma: numbers of FFmpeg's swscale.h, since av 17 names only the first.
EXACT = 0x4 | 0x40000 | 0x2000


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
