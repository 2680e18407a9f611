"""Frames of videos as photos, on PyAV, which is optional on machines that read only files of images.

A video stays open, and its decoder steps forward: frames in order cost what decoding the video costs. A frame behind the decoder,
or far ahead of it, is reached from the keyframe before it, where timestamps leave no doubt of which frame that is; else from the
start. Letters: h w pixels.
"""

import bisect
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from config.errors import InputError
from config.messages import counted, one_line
from data.stored_file import file_state

# Videos that are open at a time, and decoded frames that each keeps, for threads that ask in another order: eight of 4K, of 12 MB.
MOST_OPEN, KEPT_FRAMES, KEPT_PIXELS = 4, 8, 1 << 26
# Frames further ahead than this may be sought: finding the keyframes of a video means to read all of its file once.
FAR = 200
# Codecs whose packets each give a frame. VP8 has hidden frames, MPEG-4 empty ones.
_FRAME_PER_PACKET = {"h264", "hevc", "av1", "vp9", "mjpeg", "prores"}
# FFmpeg's AVCOL_SPC_UNSPECIFIED.
_UNTAGGED = 2
# Of a frame's number, without leading zeros. Python reads 4300 at most.
_MOST_DIGITS = 18


def read_frame(path: str, number: str) -> np.ndarray:
    """Return a frame of a video, upright: (h, w, 3) uint8.

    Args:
        path: of the video.
        number: of the frame, from 0 in display order, in digits.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a video, is damaged, or has no such frame.
    """
    digits = number.lstrip("0") or "0"
    if not (number.isascii() and number.isdecimal()) or len(digits) > _MOST_DIGITS:
        raise InputError(f"{path}/{number}", "is no number of a frame of the video", "digits, such as 000120, counted from 0")
    frame = _videos[-1].find(path).frame(int(digits))
    with decoding(path):
        return upright_pixels(frame)


def upright_pixels(frame: VideoFrame) -> np.ndarray:
    """Return a decoded frame as pixels (h, w, 3) uint8, sRGB, turned upright."""
    # FFmpeg assumes BT.601 where a video does not specify; high definition is BT.709.
    space = Colorspace.ITU709 if frame.colorspace == _UNTAGGED and frame.height >= 720 else None
    # Not the frame's own reformatter, which threads would share.
    pixels = VideoReformatter().reformat(frame, format="rgb24", src_colorspace=space).to_ndarray()
    # FFmpeg's angle rotates the stored frame counterclockwise.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


@contextlib.contextmanager
def decoding(video: str | os.PathLike) -> Iterator[None]:
    """Turn anything that FFmpeg raises into an InputError."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(video, f"cannot be decoded ({one_line(error)})", "a video") from error


class Video:
    """An open video. Threads may share it.

    Args:
        path: of the file.
        state: of the file, see `file_state`.
    """

    def __init__(self, path: str, state: tuple[int, int]) -> None:
        self.path, self.state = path, state
        self._lock = threading.Lock()
        # Appending and removing are atomic: threads say what they want before they wait for the lock.
        self._wanted: list[int] = []
        self._kept: OrderedDict[int, VideoFrame] = OrderedDict()
        self._container: InputContainer | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._next, self._sought, self._retired = 0, False, False
        # Timestamps of all frames, and the numbers of keyframes; None until a frame is sought, empty where there is doubt.
        self._times: list[int] | None = None
        self._keyframes: list[int] = []

    def frame(self, number: int) -> VideoFrame:
        """Return a frame by its number.

        Raises:
            InputError: the file is not a video, is damaged, or ends before the frame.
        """
        self._wanted.append(number)
        try:
            with self._lock, decoding(self.path):
                try:
                    return self._find(number)
                finally:
                    if self._retired:
                        self._shut()
        finally:
            self._wanted.remove(number)

    def retire(self) -> None:
        """Close the file, for threads that still want frames as soon as they have them."""
        with self._lock:
            self._retired = True
            self._shut()

    def _shut(self) -> None:
        self._kept.clear()
        if self._container is not None:
            self._container.close()
        self._container, self._frames = None, iter(())

    def _find(self, number: int) -> VideoFrame:
        if number in self._kept:
            return self._kept[number]
        try:
            self._approach(number)
            while self._step():
                if number in self._kept:
                    return self._kept[number]
        except BaseException:  # an interruption, too, leaves the decoder anywhere
            self._shut()
            raise
        if self._next == 0:
            raise InputError(self.path, "holds no frames", "a video")
        wanted = f"a frame from 0 to {self._next - 1}"
        raise InputError(f"{self.path}/{number}", f"is not in the video, which has {counted(self._next, 'frame')}", wanted)

    def _approach(self, number: int) -> None:
        """Move the decoder to where it reaches a frame soon, unless it is there."""
        ahead = self._container is not None and self._next <= number
        at = self._next if ahead else 0
        near = number - at <= FAR and (ahead or self._container is None)
        keyframe = 0 if near else self._keyframe(number)
        if keyframe > at:
            self._seek(keyframe)
        elif not ahead:
            self._open()

    def _step(self) -> bool:
        """Decode the next frame and keep it; return whether there was one."""
        frame = next(self._frames, None)
        if self._sought:
            assert self._times is not None
            expected = self._times[self._next] if self._next < len(self._times) else None
            while frame is not None and expected is not None and frame.pts is not None and frame.pts < expected:
                frame = next(self._frames, None)
            if (None if frame is None else frame.pts) != expected:
                self._times, self._keyframes = [], []
                self._shut()
                self._open()
                return True
        if frame is None:
            return False
        self._kept[self._next] = frame
        self._next += 1
        while len(self._kept) > max(1, min(KEPT_FRAMES, KEPT_PIXELS // (frame.width * frame.height))):
            unwanted = next((number for number in self._kept if number not in self._wanted), None)
            if unwanted is None:
                break
            del self._kept[unwanted]
        return True

    def _open(self) -> None:
        """Open the video, at its start."""
        if self._container is not None:
            self._container.close()
        self._container = av.open(self.path)
        self._stream = _pictures(self._container, self.path)
        self._stream.thread_type = "AUTO"
        self._frames = self._container.decode(self._stream)
        self._next, self._sought = 0, False

    def _seek(self, keyframe: int) -> None:
        if self._container is None:
            self._open()
        assert self._container is not None
        assert self._times is not None
        self._container.seek(self._times[keyframe], stream=self._stream)
        self._frames = self._container.decode(self._stream)
        self._next, self._sought = keyframe, True

    def _keyframe(self, number: int) -> int:
        """Return the last keyframe up to a frame; 0 where the keyframes are in doubt."""
        if self._times is None:
            times, keyframes = _keyframes(self.path)
            agree = all(number < len(times) and frame.pts == times[number] for number, frame in self._kept.items())
            self._times, self._keyframes = (times, keyframes) if agree else ([], [])
        return self._keyframes[bisect.bisect_right(self._keyframes, number) - 1] if self._keyframes else 0


def _pictures(container: InputContainer, path: str) -> VideoStream:
    if not container.streams.video:
        raise InputError(path, "holds no pictures", "a video")
    return container.streams.video[0]


def _keyframes(path: str) -> tuple[list[int], list[int]]:
    """Return the timestamps of a video's frames, ascending, and the numbers of its keyframes, without decoding.

    Both are empty where packets and frames may not be the same: without timestamps, with equal ones, or where some are not shown.
    """
    with av.open(path) as container:
        stream = _pictures(container, path)
        if stream.codec.canonical_name not in _FRAME_PER_PACKET:
            return [], []
        packets = [
            (packet.pts, packet.is_keyframe, packet.is_discard or packet.is_corrupt)
            for packet in container.demux(stream)
            if packet.size
        ]
    times = sorted(pts for pts, _, _ in packets if pts is not None)
    doubtful = len(set(times)) < len(packets) or any(hidden for _, _, hidden in packets)
    if not packets or doubtful or not packets[0][1] or packets[0][0] != times[0]:
        return [], []
    keys = {pts for pts, is_keyframe, _ in packets if is_keyframe}
    return times, [number for number, pts in enumerate(times) if pts in keys]


class _OpenVideos:
    """The videos that were read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._videos: OrderedDict[str, Video] = OrderedDict()

    def find(self, path: str) -> Video:
        state = file_state(path, "a video")
        retired = []
        with self._lock:
            video = self._videos.pop(path, None)
            if video is None or video.state != state:
                retired += [] if video is None else [video]
                video = Video(path, state)
            self._videos[path] = video
            while len(self._videos) > MOST_OPEN:
                retired.append(self._videos.popitem(last=False)[1])
        for other in retired:
            other.retire()
        return video


# The last is in use. A forked process leaves those of its parent alone: closing them would wait for their decoders' threads, which
# did not come with it.
_videos = [_OpenVideos()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _videos.append(_OpenVideos()))
