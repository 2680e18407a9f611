"""Still frames of a video: the sharpest of each of N equal segments. Letters: h w pixels."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
from av.video.frame import VideoFrame
from tqdm import tqdm

from config.errors import InputError, missing_file
from data.files import write_json
from data.scene_format import read_json
from data.video_reader import decoding, upright_pixels
from data_preprocess.capture.stored_image import write_png
from data_preprocess.command import say

# Sharpness is measured at this width: finer detail is more sensor noise than scene.
_MEASURED_WIDTH = 640
_DONE, _FRAME = "frames.json", re.compile(r"\d+\.png")


def draw_frames(video: str | os.PathLike, folder: str | os.PathLike, count: int) -> list[Path]:
    """Divide a video into equal segments and write the sharpest frame of each as an upright PNG; say how many are left out.

    Args:
        video: any file that FFmpeg decodes.
        folder: for the frames, `NUMBER.png` by their index in the video; those of an earlier identical call are kept.
        count: number of frames; all, if the video has fewer.

    Returns:
        the files in the order of the video.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a video.
    """
    video, folder = Path(video), Path(folder)
    if not video.is_file():
        raise missing_file(video, "a video or a folder of photos")
    state = video.stat()
    made_from = {"video": str(video.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns, "count": count}
    done = folder / _DONE
    if done.exists():
        content = read_json(done)
        names, total = (content.pop(key, None) for key in ("frames", "of")) if isinstance(content, dict) else (None, None)
        if content == made_from and isinstance(names, list) and isinstance(total, int):
            files = [folder / name for name in names if isinstance(name, str) and _FRAME.fullmatch(name)]
            if len(files) == len(names) and all(file.exists() for file in files):
                _say(video, len(files), total)
                return files
        done.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.png"):
        file.unlink()
    total = _count(video)
    files = _draw(video, folder, count, total)
    write_json(done, {**made_from, "frames": [file.name for file in files], "of": total})
    _say(video, len(files), total)
    return files


def _say(video: Path, drawn: int, total: int) -> None:
    if drawn < total:
        say(f"{video.stem}: left out, frames of the video ({total - drawn} of {total}): all but the sharpest of each segment")


def _draw(video: Path, folder: Path, count: int, total: int) -> list[Path]:
    files: list[Path] = []
    segment, best, sharpest = 0, None, -1.0
    frames = tqdm(_decode(video), total=total, desc="frames", unit="frame", leave=False, dynamic_ncols=True)
    for number, frame in enumerate(frames):
        if number * count // total > segment:
            files.append(_write(video, folder, *best))
            segment, sharpest = number * count // total, -1.0
        value = _sharpness(video, frame) if count < total else 0.0
        if value > sharpest:
            best, sharpest = (number, frame), value
    if best is None:
        raise InputError(video, "holds no frames", "a video")
    return [*files, _write(video, folder, *best)]


def _count(video: Path) -> int:
    """Return the number of frames that a video declares."""
    with decoding(video), av.open(str(video)) as container:
        streams = container.streams.video
        total = sum(1 for packet in container.demux(streams[0]) if packet.size) if streams else 0
    if not total:
        raise InputError(video, "holds no pictures", "a video")
    return total


def _decode(video: Path) -> Iterator[VideoFrame]:
    with decoding(video), av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def _sharpness(video: Path, frame: VideoFrame) -> float:
    """Return the variance of the Laplacian of the brightness."""
    w = min(_MEASURED_WIDTH, frame.width)
    h = max(1, round(frame.height * w / frame.width))
    with decoding(video):
        grey = frame.reformat(w, h, "gray").to_ndarray()
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _write(video: Path, folder: Path, number: int, frame: VideoFrame) -> Path:
    file = folder / f"{number:06d}.png"
    with decoding(video):
        pixels = upright_pixels(frame)
    write_png(file, pixels)
    return file
