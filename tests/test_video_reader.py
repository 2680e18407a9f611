"""Frames of videos as photos. Letters: h w pixels."""

import json
import os
import random
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from config.errors import InputError
from data import video_reader
from data.dataset import load_views
from data.images import read_photo, read_pixels
from data.scene_format import CAMERAS, read_scene
from data.stored_file import file_size, file_state, open_file, read_file
from data.video_reader import KEPT_FRAMES, MOST_OPEN, Video
from data_preprocess import adjust_cameras, check_scenes, export_colmap, pack_scenes
from data_preprocess.capture.video_frames import draw_frames
from tests.support.scenes import contents, write_random_scene
from tests.support.videos import decode, number_in, write_frames, write_video_scene

ROOT = Path(__file__).parent.parent
N = 90
# Closed groups of pictures; open ones; none, where pictures are refreshed in part; without timestamps of display; a codec with
# empty frames; hidden frames.
VIDEOS = {
    "closed.mp4": ("libx264", {"x264-params": "keyint=20"}),
    "open.mov": ("libx264", {"x264-params": "keyint=20:open-gop=1"}),
    "refresh.mkv": ("libx264", {"x264-params": "keyint=20:intra-refresh=1"}),
    "dts.avi": ("libx264", {"x264-params": "keyint=20"}),
    "empty.mp4": ("mpeg4", {"g": "20"}),
    "hidden.webm": ("libvpx-vp9", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
}
# Where the numbers of frames cannot be told from timestamps, at the latest by what comes after the first seek.
DOUBTFUL = ("refresh.mkv", "dts.avi", "empty.mp4")


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Return a list that grows when a video is opened or sought in."""
    calls = []
    for name in ("_open", "_seek"):
        real = getattr(Video, name)
        monkeypatch.setattr(Video, name, lambda *x, real=real, name=name: calls.append(name) or real(*x))
    return calls


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_in_any_order_are_those_that_decoding_in_order_gives(tmp_path, monkeypatch, opened, name):
    codec, options = VIDEOS[name]
    write_frames(tmp_path / name, N, codec=codec, **options)
    monkeypatch.setattr(video_reader, "FAR", 5)
    rng = random.Random(1)
    order = [60, 75, 3, *(rng.randrange(N) for _ in range(40)), N - 1, 0]
    expected = [read_pixels(tmp_path / name / str(i)) for i in range(N)]
    assert [number_in(pixels) for pixels in expected] == list(range(N))
    video_reader._videos.append(video_reader._OpenVideos())
    opened.clear()
    for i in order:
        assert np.array_equal(read_pixels(tmp_path / name / f"{i:06d}"), expected[i])
    assert opened.count("_seek") <= 1 if name in DOUBTFUL else opened.count("_seek") > 10


def test_a_seek_that_arrives_early_goes_on_to_its_keyframe(tmp_path, monkeypatch):
    write_frames(tmp_path / "clip.mp4", N, **{"x264-params": "keyint=20"})
    monkeypatch.setattr(video_reader, "FAR", 5)
    seek = Video._seek

    def seek_early(video: Video, keyframe: int) -> None:
        seek(video, keyframe)
        video._container.seek(0, stream=video._stream)
        video._frames = video._container.decode(video._stream)

    monkeypatch.setattr(Video, "_seek", seek_early)
    video = video_reader._videos[-1].find(str(tmp_path / "clip.mp4"))
    for i in (50, 12, 85):
        assert number_in(read_pixels(tmp_path / "clip.mp4" / str(i))) == i
    assert video._times  # nothing that gave rise to doubt


@pytest.mark.parametrize("turned", [False, True])
def test_frames_have_the_pixels_of_the_converter(tmp_path, turned):
    video = tmp_path / "walk.mp4"
    write_frames(video, 5)
    if turned:
        content = bytearray(video.read_bytes())
        at = content.index(b"tkhd") + 44  # the track header's matrix, as phones write it
        content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
        video.write_bytes(content)
    files = draw_frames(video, tmp_path / "frames", 5)
    for i, file in enumerate(files):
        pixels, alpha = read_photo(video / str(i))
        assert (pixels.shape, pixels.dtype, alpha) == ((56, 40, 3) if turned else (40, 56, 3), np.uint8, None)
        assert np.array_equal(pixels, read_pixels(file))


def test_frames_in_order_are_decoded_once(tmp_path, monkeypatch, opened):
    write_frames(tmp_path / "clip.MP4", N)
    steps, step = [], Video._step
    monkeypatch.setattr(Video, "_step", lambda self: steps.append(1) or step(self))
    for i in range(0, N, 7):
        assert number_in(read_pixels(tmp_path / "clip.MP4" / f"{i:03d}")) == i
    assert opened == ["_open"]
    assert len(steps) == 85
    video = video_reader._videos[-1].find(str(tmp_path / "clip.MP4"))
    assert len(video._kept) == KEPT_FRAMES
    monkeypatch.setattr(video_reader, "KEPT_PIXELS", 3 * 40 * 56)
    read_pixels(tmp_path / "clip.MP4" / "86")
    assert list(video._kept) == [84, 85, 86]


def test_threads_that_ask_in_another_order_do_not_reopen_the_video(tmp_path, opened):
    write_frames(tmp_path / "clip.mp4", N)
    rng = random.Random(0)
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, 80, 8):
            numbers = rng.sample(range(first, first + 8), 8)
            found = pool.map(lambda i: number_in(read_pixels(tmp_path / "clip.mp4" / str(i))), numbers)
            assert list(found) == numbers
    assert opened == ["_open"]


def test_frames_that_others_wait_for_are_kept(tmp_path, opened):
    write_frames(tmp_path / "clip.mp4", N)
    video = video_reader._videos[-1].find(str(tmp_path / "clip.mp4"))
    early = [3, 11, 20]
    with ThreadPoolExecutor(4) as pool:
        with video._lock:  # all of them wait for it, the one for the last frame first
            waiting = []
            for count, i in enumerate([85, *early]):
                waiting.append(pool.submit(video.frame, i))
                while len(video._wanted) <= count:
                    threading.Event().wait(0.001)
        assert [number_in(video_reader.upright_pixels(x.result())) for x in waiting] == [85, *early]
    assert opened == ["_open"]
    assert video._wanted == []


def test_a_thread_whose_video_made_room_for_others_still_gets_its_frame(tmp_path):
    write_frames(tmp_path / "clip.mp4", 9)
    video = video_reader._videos[-1].find(str(tmp_path / "clip.mp4"))
    video.frame(4)
    video.retire()
    assert number_in(video_reader.upright_pixels(video.frame(7))) == 7
    assert video._container is None
    assert not video._kept


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_few_videos_are_open(tmp_path):
    def count() -> int:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return sum(os.path.lexists(link) and os.readlink(link).startswith(str(tmp_path)) for link in links)

    for i in range(MOST_OPEN + 3):
        write_frames(tmp_path / f"{i}.mp4", 3, first=i)
    for i in (*range(MOST_OPEN + 3), 2, 0):
        assert number_in(read_pixels(tmp_path / f"{i}.mp4" / "1")) == i + 1
        assert count() <= MOST_OPEN


def test_a_video_that_was_replaced_is_read_again(tmp_path):
    write_frames(tmp_path / "clip.mp4", 6)
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "4")) == 4
    state = file_state(tmp_path / "clip.mp4" / "4")
    write_frames(tmp_path / "clip.mp4", 7, first=100)
    assert file_state(tmp_path / "clip.mp4" / "4") != state
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "4")) == 104
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "6")) == 106


def test_a_forked_process_reads_frames_too(tmp_path):
    write_frames(tmp_path / "clip.mp4", 9)
    program = (
        "import os, sys\nfrom data.images import read_pixels\nfrom tests.support.videos import number_in\n"
        "read = lambda i: number_in(read_pixels(f'{sys.argv[1]}/{i}'))\n"
        "assert read(2) == 2\nchild = os.fork()\nassert read(5 + (child == 0)) == 5 + (child == 0)\n"
        "if child == 0: os._exit(7)\nassert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\nassert read(7) == 7\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, tmp_path / "clip.mp4"], cwd=ROOT, timeout=60, check=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("clip.mp4/9", r"clip\.mp4/9: is not in the video, which has 9 frames; wanted a frame from 0 to 8$"),
        ("clip.mp4/123456", r"clip\.mp4/123456: is not in the video, which has 9 frames; wanted a frame from 0 to 8$"),
        ("clip.mp4/" + "9" * 5000, r"…9+: is no number of a frame of the video; wanted digits, such as 000120"),
        ("clip.mp4/00001.png", r"clip\.mp4/00001\.png: is no number of a frame of the video; wanted digits, such as 000120"),
        ("clip.mp4/²", r"clip\.mp4/²: is no number of a frame of the video"),
        ("clip.mp4/-1", r"clip\.mp4/-1: is no number of a frame of the video"),
        ("text.mov/0", r"text\.mov: cannot be decoded \(.*\); wanted a video$"),
        ("cut.mp4/3", r"cut\.mp4: (cannot be decoded|holds no frames)"),
        ("sound.m4v/3", r"sound\.m4v: holds no pictures; wanted a video$"),
        ("sound.m4v/300", r"sound\.m4v: holds no pictures; wanted a video$"),
    ],
)
def test_what_is_no_frame_is_refused_in_one_line(tmp_path, path, message):
    import av

    write_frames(tmp_path / "clip.mp4", 9)
    (tmp_path / "text.mov").write_text("no video")
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[:500])
    with av.open(str(tmp_path / "sound.m4v"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=message) as caught:
        read_pixels(tmp_path / path)
    assert "\n" not in str(caught.value)
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "8")) == 8
    assert number_in(read_pixels(tmp_path / "clip.mp4" / f"{8:05000d}")) == 8


def test_a_video_that_is_damaged_further_on_gives_the_frames_before(tmp_path):
    write_frames(tmp_path / "clip.mp4", N, **{"x264-params": "keyint=20"})
    content = (tmp_path / "clip.mp4").read_bytes()
    import av

    with av.open(str(tmp_path / "clip.mp4")) as container:
        at = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe][2]
    damaged = bytearray(content)
    damaged[at : at + 4] = b"\xff" * 4  # the length of the picture
    (tmp_path / "clip.mp4").write_bytes(damaged)
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "20")) == 20
    with pytest.raises(InputError, match=r"clip\.mp4: cannot be decoded \(.*\); wanted a video$"):
        read_pixels(tmp_path / "clip.mp4" / "70")
    assert number_in(read_pixels(tmp_path / "clip.mp4" / "3")) == 3


def test_without_pyav_one_line_says_so(tmp_path, monkeypatch):
    write_frames(tmp_path / "clip.mp4", 2)
    monkeypatch.delitem(sys.modules, "data.video_reader")
    monkeypatch.setitem(sys.modules, "av", None)
    found = r"clip\.mp4/1: cannot be read: frames of videos need PyAV, which is not installed; wanted `pip install av`, or photos$"
    with pytest.raises(InputError, match=found):
        read_pixels(tmp_path / "clip.mp4" / "1")


def test_a_file_in_a_folder_of_that_name_keeps_precedence(tmp_path):
    json_path = write_random_scene(tmp_path / "a" / "clip.mp4", 1)
    assert np.array_equal(
        read_pixels(json_path.parent / "images" / "00000.png"), read_pixels(read_scene(json_path).views[0].file_path)
    )
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(FileNotFoundError, match=r"notes\.txt/3: is not there; wanted an image$"):
        read_pixels(tmp_path / "notes.txt" / "3")
    with pytest.raises(FileNotFoundError, match=r"none\.mp4/3: is not there; wanted an image$"):
        read_pixels(tmp_path / "none.mp4" / "3")
    with pytest.raises(FileNotFoundError, match=r"notes\.txt/3: is not there; wanted a file$"):
        file_state(tmp_path / "notes.txt" / "3")


def test_a_frame_has_no_bytes_of_its_own(tmp_path):
    write_frames(tmp_path / "clip.mp4", 2)
    for read in (read_file, open_file):
        with pytest.raises(InputError, match=r"clip\.mp4/1: is a frame of a video, not a file; wanted an image$"):
            read(tmp_path / "clip.mp4" / "1", "an image")
    assert file_size(tmp_path / "clip.mp4" / "1") == (tmp_path / "clip.mp4").stat().st_size


def test_views_of_a_scene_are_frames(tmp_path):
    numbers = [30, 2, 17, 18, 44]
    json_path = write_video_scene(tmp_path / "walk", numbers)
    loaded = load_views(read_scene(json_path), [0, 1, 2, 3, 4], (40, 56), workers=3)
    found = (loaded["image"].permute(0, 2, 3, 1) * 255).numpy()
    assert [number_in(pixels) for pixels in found] == numbers
    frames, _ = decode(tmp_path / "walk" / "clip.mp4")
    # Of 255 levels; FFmpeg's usual rounding against its most exact.
    assert np.abs(found - frames[numbers]).mean() < 2
    assert loaded["fxfycxcy"][1].tolist() == [57, 58, 29, 20]
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / CAMERAS).symlink_to(json_path)
    assert number_in(read_pixels(read_scene(tmp_path / "link" / CAMERAS).views[2].file_path)) == 17


def test_a_frame_is_in_the_folder_of_its_scene(tmp_path):
    json_path = write_video_scene(tmp_path / "walk", [0, 1])
    content = json.loads(json_path.read_text())
    content[1]["file_path"] = "../walk/clip.mp4/000001"
    json_path.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"view 1, file_path: is '\.\./walk/clip\.mp4/000001'; wanted a file in the folder of the JSON"
    ):
        read_scene(json_path)


def test_packs_hold_frames_as_images_and_copy_no_videos(tmp_path, capsys):
    json_path = write_video_scene(tmp_path / "walk", [5, 2, 2, 9])
    flags = ["--data_path", str(json_path), "--name", "walk", "--output"]
    assert pack_scenes.main([*flags, str(tmp_path / "copied")]) == 2
    assert "clip.mp4/000005: is a frame of a video, not a file; wanted --format webp, jpeg or png" in capsys.readouterr().err
    assert not list((tmp_path / "copied").glob("*.zip"))
    assert pack_scenes.main([*flags, str(tmp_path / "png"), "--format", "png"]) == 0
    # The JSON and the video.
    assert "1 scene, 4 views: 2 files, " in capsys.readouterr().out
    packed = read_scene(tmp_path / "png" / "walk_00000.zip" / "walk" / CAMERAS)
    assert packed.views[0].file_path.name == "00000.png"
    expected = load_views(read_scene(json_path), [0, 1, 2, 3], (24, 32))
    found = load_views(packed, [0, 1, 2, 3], (24, 32))
    assert all((found[key] == expected[key]).all() for key in ("image", "fxfycxcy", "c2w"))


def test_exports_to_colmap_draw_frames_from_the_video(tmp_path, capsys):
    json_path = write_video_scene(tmp_path / "walk", [5, 2, 9])
    flags = [str(json_path), "--output", str(tmp_path / "out"), "--points", "10"]
    for _ in range(2):  # the second finds all of it there
        assert export_colmap.main(flags) == 0
        assert ": 3 photos (3 turned upright, put on white or drawn from a video, as PNG), 3 cameras" in capsys.readouterr().out
        names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
        assert names == ["clip.mp4_000002.png", "clip.mp4_000005.png", "clip.mp4_000009.png"]
    for name in names:
        assert number_in(read_pixels(tmp_path / "out" / "images" / name)) == int(name[-6:-4])
    assert export_colmap.main([str(json_path), "--output", str(tmp_path / "walk" / "export")]) == 2
    assert "walk/export: is in the folder of " in capsys.readouterr().err


def test_checks_and_adjustments_take_frames(tmp_path, capsys):
    numbers = [5, 9, 5, 30]
    json_path = write_video_scene(tmp_path / "walk", numbers)
    content = json.loads(json_path.read_text())
    content[2]["file_path"] = "clip.mp4/5"  # the same frame by another name
    json_path.write_text(json.dumps(content))
    before = contents(tmp_path / "walk")
    assert check_scenes.main([str(json_path), "--output", str(tmp_path / "pictures")]) == 2
    err = capsys.readouterr().err
    assert "view 2: has the photo of view 0 again" in err
    assert "Traceback" not in err
    assert contents(tmp_path / "walk") == before
    assert adjust_cameras.main([str(json_path), "--drop", "2", "--scale", "2"]) in (0, 2)
    adjusted = read_scene(tmp_path / "walk" / "adjusted_cameras.json")
    assert [number_in(read_pixels(view.file_path)) for view in adjusted.views] == [5, 9, 30]
