"""Videos read back."""

from pathlib import Path

import numpy as np


def decode(path: Path) -> tuple[np.ndarray, dict[str, object]]:
    """Return a video's frames (n, h, w, 3), and the data of its header."""
    import av  # here, so that tests that read no video run without it
    from av.video.reformatter import Interpolation

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        frames = [picture.to_ndarray(format="rgb24", interpolation=exact) for picture in pictures]
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
