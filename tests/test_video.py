"""Videos: they decode to the frames that went in, at the requested size and speed, and are written whole or not at all."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import inference
from config.errors import InputError
from data.output.video import VideoWriter, to_uint8
from tests.support.videos import decode

COLOURS = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 120), (17, 99, 64), (128, 128, 128)]


def colour_blocks(h: int, w: int, side: int, shift: int = 0) -> np.ndarray:
    rows, columns = np.arange(h)[:, None] // side, np.arange(w) // side
    return np.array(COLOURS, np.uint8)[(rows * 3 + columns + shift) % len(COLOURS)]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_to_uint8_rounds_and_clamps() -> None:
    image = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 7.0]).repeat(2, 3, 4, 1)
    image[1, 2, 3, 0] = 1.0
    got = to_uint8(image.requires_grad_())
    assert got.dtype == np.uint8
    assert got.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(got[0, 2, :, 1], [0, 0, 0, 1, 255, 255])
    assert got[1, 3, 0].tolist() == [0, 0, 255]
    assert to_uint8(torch.full((3, 2, 1), 0.5, dtype=torch.bfloat16)).flatten().tolist() == [128] * 6
    levels = torch.arange(256) / 255
    np.testing.assert_array_equal(to_uint8(levels.expand(3, 2, 256))[1, :, 2], np.arange(256))


def test_mp4_gives_back_colours_frames_and_speed(tmp_path: Path) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    frames = [colour_blocks(48, 80, 16, shift) for shift in range(7)]
    with VideoWriter(tmp_path / "new" / "path.mp4", fps=25) as video:
        for frame in frames:
            video.write(frame)
    got, facts = decode(tmp_path / "new" / "path.mp4")
    assert got.shape == (7, 48, 80, 3)
    assert (facts["codec"], facts["format"], facts["rate"]) == ("h264", "yuv420p", 25)
    assert facts["times"] == [Fraction(frame, 25) for frame in range(7)]
    # 1 is BT.709 in each table of H.264.
    assert (facts["matrix"], facts["primaries"], facts["transfer"]) == (Colorspace.ITU709, 1, 1)
    assert facts["range"] == ColorRange.MPEG
    # In the middle of a block no chroma of a neighbour reaches: measured 3 levels. BT.601 read as 709 is 20 off.
    middle = np.abs(got.astype(int) - np.stack(frames))[:, 8::16, 8::16]
    assert middle.max() <= 4
    assert (got[0, 8, 8] >= 254).all()
    assert files_in(tmp_path / "new") == ["path.mp4"]


def test_mp4_has_its_index_in_front(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4") as video:
        video.write(colour_blocks(16, 16, 8))
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_mp4_of_odd_size_repeats_the_last_row_and_column_and_scales_nothing(tmp_path: Path) -> None:
    frame = colour_blocks(33, 49, 16)
    frame[32], frame[:, 48] = (200, 30, 120), (17, 99, 64)
    with VideoWriter(tmp_path / "odd.mp4") as video:
        video.write(frame)
    got = decode(tmp_path / "odd.mp4")[0][0].astype(int)
    assert got.shape == (34, 50, 3)
    np.testing.assert_allclose(got[8:33:16, 8:40:16], frame[8:33:16, 8:40:16].astype(int), atol=4)
    # Chroma of the neighbours reaches in: measured 20 levels. Black would be 120 off, a mirrored row 100 or more.
    np.testing.assert_allclose(got[33, 8:40:16], np.tile([200, 30, 120], (2, 1)), atol=35)
    np.testing.assert_allclose(got[8:30:16, 49], np.tile([17, 99, 64], (2, 1)), atol=35)


def test_mp4_takes_views_of_arrays_and_fractional_rates(tmp_path: Path) -> None:
    frame = colour_blocks(48, 96, 16)
    with VideoWriter(tmp_path / "a.MP4", fps=29.97) as video:
        video.write(frame[::-1, ::2])
    got, facts = decode(tmp_path / "a.MP4")
    assert facts["rate"] == Fraction(2997, 100)
    np.testing.assert_allclose(got[0, 8::16, 4::8].astype(int), frame[::-1, ::2][8::16, 4::8].astype(int), atol=8)


def test_gif_loops_at_one_speed_with_one_palette(tmp_path: Path) -> None:
    frames = [colour_blocks(21, 35, 7, shift) for shift in range(5)]
    with VideoWriter(tmp_path / "a.gif", fps=30) as video:
        for frame in frames:
            video.write(frame)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        assert gif.n_frames == 5
        for index, picture in enumerate(ImageSequence.Iterator(gif)):
            # 100 / 30 rounds to three hundredths of a second.
            assert picture.info["duration"] == 30
            # Eight colours: each has its own entry, up to one level of the palette's clustering.
            np.testing.assert_allclose(np.array(picture.convert("RGB")).astype(int), frames[index].astype(int), atol=1)


def test_gif_of_many_colours_stays_near_them_and_still_parts_stay_still(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(96) * 2, 128), axis=-1).astype(np.uint8)
    frames = np.stack([smooth] * 4)
    frames[:, 40:] = rng.integers(0, 256, (4, 24, 96, 3), dtype=np.uint8)
    buffer = np.empty_like(smooth)
    with VideoWriter(tmp_path / "a.gif", fps=100) as video:
        for frame in frames:
            buffer[:] = frame
            video.write(buffer)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["duration"] == 20
        got = np.stack([np.array(picture.convert("RGB")) for picture in ImageSequence.Iterator(gif)]).astype(int)
    assert (got[:, :40] == got[:1, :40]).all()
    # 256 colours for noise and a ramp: measured 6.5 on average.
    assert np.abs(got[:, :40] - frames[:, :40]).mean() < 10
    assert len(np.unique(got[:, :40].reshape(-1, 3), axis=0)) > 40


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("frames", [0, 3])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, suffix: str, frames: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def stop_early() -> None:
        with VideoWriter(path) as video:
            for shift in range(frames):
                video.write(colour_blocks(16, 16, 8, shift))
            raise KeyError("the renderer failed")

    with pytest.raises(KeyError, match="the renderer failed"):
        stop_early()
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_no_frame_is_an_error_and_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=rf"a{suffix}: no frame was written; wanted one"), VideoWriter(path):
        pass
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (np.zeros((8, 6, 3), np.float32), r"frame 1 is \(8, 6, 3\) float32; wanted 8 x 6 x 3 uint8"),
        (np.zeros((6, 8, 3), np.uint8), r"frame 1 is \(6, 8, 3\) uint8; wanted 8 x 6 x 3 uint8"),
        (np.zeros((8, 6, 4), np.uint8), r"frame 1 is \(8, 6, 4\) uint8; wanted 8 x 6 x 3"),
    ],
)
def test_a_frame_unlike_the_first_is_refused(tmp_path: Path, frame: np.ndarray, match: str) -> None:
    def write_both() -> None:
        with VideoWriter(tmp_path / "a.mp4") as video:
            video.write(np.zeros((8, 6, 3), np.uint8))
            video.write(frame)

    with pytest.raises(ValueError, match=match):
        write_both()
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (0, 6, 3)])
def test_a_first_frame_that_is_no_picture_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a.gif: frame 0 is .*; wanted h x w x 3"), VideoWriter(tmp_path / "a.gif") as v:
        v.write(np.zeros(shape, np.uint8))


def test_unknown_endings_and_speeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.avi: has the suffix '.avi'; wanted .mp4 or .gif"):
        VideoWriter(tmp_path / "a.avi")
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"a.mp4: .* frames per second; wanted 0.1 to 240"):
            VideoWriter(tmp_path / "a.mp4", fps=fps)


def test_mp4_without_pyav_is_told_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "data.output.video_mp4", raising=False)
    message = "video.mp4: cannot be written: MP4 needs PyAV, which is not installed; wanted `pip install av`, or a GIF"
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / "video.mp4")
    assert inference.main(["--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"inference.py: {message}\n"
    assert not (tmp_path / "out").exists()
    with VideoWriter(tmp_path / "video.gif") as video:
        video.write(colour_blocks(4, 6, 2))
