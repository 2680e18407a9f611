"""Still frames of a video. Letters: h w pixels."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from config.errors import InputError
from data.output.video import VideoWriter
from data_preprocess.capture import video_frames
from data_preprocess.capture.video_frames import draw_frames

SHARP = (3, 11, 12, 25)


def write_video(path, frames: int = 30, size=(48, 64)) -> np.ndarray:
    """Write a pattern whose left half is red, blurred except in the frames of SHARP; return the sharp one."""
    h, w = size
    pattern = np.random.default_rng(0).integers(0, 2, (h // 4, w // 4, 1)).repeat(4, 0).repeat(4, 1).repeat(3, 2) * 160 + 40
    pattern[:, : w // 2] = (180, 40, 50)
    pattern = pattern.astype(np.uint8)
    blurred = cv2.GaussianBlur(pattern, (0, 0), 2.5)
    with VideoWriter(path) as video:
        for i in range(frames):
            video.write(pattern if i in SHARP else blurred)
    return pattern


def test_the_sharpest_of_each_segment_is_drawn_in_its_colours(tmp_path):
    pattern = write_video(tmp_path / "walk.mp4")
    files = draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 3)
    # Segments 0..9, 10..19, 20..29; the first of two equal ones.
    assert [file.name for file in files] == ["000003.png", "000011.png", "000025.png"]
    for file in files:
        found = np.asarray(Image.open(file)).astype(int)
        # 8 bits through yuv420p and H.264; BT.601 instead of BT.709 changes this red by more than 10.
        assert np.abs(found[8:-8, 8:24] - pattern[8:-8, 8:24]).max() < 6
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [*(file.name for file in files), "frames.json"]


def test_frames_are_drawn_once(tmp_path, capsys):
    write_video(tmp_path / "walk.mp4")
    files = draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 3)
    times = [file.stat().st_mtime_ns for file in files]
    assert draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 3) == files
    assert (
        capsys.readouterr().out.count("walk: left out, frames of the video (27 of 30): all but the sharpest of each segment\n") == 2
    )
    assert [file.stat().st_mtime_ns for file in files] == times
    files[1].unlink()
    assert draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 3) == files
    # None of the earlier frames remain.
    assert len(draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 5)) == 5
    assert len(list((tmp_path / "frames").glob("*.png"))) == 5


@pytest.mark.parametrize("content", ["[]", "7", "{}", '{"frames": 3, "of": 30}', '{"frames": [null], "of": 30}', "null"])
def test_a_list_of_frames_that_something_else_wrote_is_replaced(tmp_path, content):
    write_video(tmp_path / "walk.mp4", frames=4)
    files = draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 2)
    made = (tmp_path / "frames" / "frames.json").read_text()
    (tmp_path / "frames" / "frames.json").write_text(content)
    assert draw_frames(tmp_path / "walk.mp4", tmp_path / "frames", 2) == files
    assert (tmp_path / "frames" / "frames.json").read_text() == made


def test_a_short_video_gives_all_it_has(tmp_path):
    write_video(tmp_path / "short.mp4", frames=4)
    files = draw_frames(tmp_path / "short.mp4", tmp_path / "frames", 10)
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(4)]


@pytest.mark.parametrize(("a", "b", "turns"), [(0, 1, -1), (0, -1, 1), (-1, 0, 2)])
def test_a_video_held_upright_gives_upright_frames(tmp_path, a, b, turns):
    pattern = write_video(tmp_path / "phone.mp4", frames=12)
    content = bytearray((tmp_path / "phone.mp4").read_bytes())
    # The track header's matrix, as phones write it: x right and y down go to (a, b) and (-b, a).
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(content)
    (file,) = draw_frames(tmp_path / "phone.mp4", tmp_path / "frames", 1)
    expected = np.rot90(pattern, turns).astype(int)
    found = np.asarray(Image.open(file)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 8


def test_whatever_a_decoder_raises_is_of_the_video_and_a_fault_of_the_program_is_not(tmp_path, monkeypatch):
    video = tmp_path / "walk.mp4"
    write_video(video, 4)

    def refuse(*arguments, **options):
        raise KeyError("no such pixel format")

    def faulty(*arguments):
        raise ValueError("bug")

    frame = SimpleNamespace(width=64, height=48, reformat=refuse)
    for owner, name, value in ((video_frames.av, "open", refuse), (video_frames, "_decode", lambda path: iter([frame]))):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            with pytest.raises(InputError, match=r"walk.mp4: cannot be decoded \('no such pixel format'\); wanted a video"):
                draw_frames(video, tmp_path / "frames", 2)
    monkeypatch.setattr(video_frames, "write_png", faulty)
    with pytest.raises(ValueError, match=r"^bug$") as caught:
        draw_frames(video, tmp_path / "frames", 2)
    assert type(caught.value) is ValueError


def test_what_is_no_video_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.mp4: is not there; wanted a video or a folder of photos"):
        draw_frames(tmp_path / "none.mp4", tmp_path / "frames", 3)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text.mp4: cannot be decoded \(.*\); wanted a video"):
        draw_frames(tmp_path / "text.mp4", tmp_path / "frames", 3)
    write_video(tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:1500])
    with pytest.raises(InputError, match=r"cut.mp4: (cannot be decoded|holds no)"):
        draw_frames(tmp_path / "cut.mp4", tmp_path / "frames", 3)
