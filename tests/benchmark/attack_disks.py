"""Attacks through files that are none: closed pipes, full disks, devices, FIFOs."""

import os
import signal
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, Case, attack, nothing
from tests.benchmark.attack_inputs import CHECK, COLMAP, EXPORT, TRANSFORMS, contents, convert, export, infer, train
from tests.benchmark.attack_programs import Arena, Pause, Run, small_disk
from tests.benchmark.attack_stored import MERGE, SCENES, chunks, llff, masked, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, temporaries

INFERENCE = infer("--save_images", "--save_state")
# What converters leave out, with a line; an empty folder of photos that they take for none.
LEFT_OUT = ("photo of a capture", "photo of colmap", "mask", "photo of the packing")
# Inputs that are attacked with a link to itself, too.
LINKED = ("list of scenes", "photo", "pack in a list", "photo of the packing", "photo of the export to COLMAP", "chunk", "mask",
          "poses_bounds.npy", "photo of LLFF", "folder of masks", "part of a list", "photo of a capture")  # fmt: skip
SILENT = [0, 2, 120, 128 + signal.SIGPIPE]


def outputs(arena: Arena) -> Iterator[Outcome]:
    """Start programs as a user does, with a standard output that takes nothing, or only ASCII; the work is done or saved."""
    train_place = arena.place("train")
    for name, base, words, done in (
        ("training", "train", train(train_place), "outputs/run/snapshot/step_*.pt"),
        ("inference", "place", infer(), "output/metrics.json"),
        ("converter", "capture", convert(), "out/transforms_data_path.json"),
        ("export", "place", export(), "out/objects_data_path.json"),
    ):
        for kind in ("closed pipe", "/dev/full", "both on /dev/full", "ASCII"):
            folder = arena.place(base)
            run = _with_output(arena, words, folder, kind)
            saved = any(folder.glob(done))
            statuses = {"ASCII": [0], "both on /dev/full": [*SILENT, 1]}.get(
                kind, SILENT
            )  # 1: the message cannot be written either
            problem = judge(run.status, run.stderr, statuses, lines=[0, 1])
            yield Outcome(f"{name}, {kind}", first_problem(problem, "" if saved else f"nothing in {done}: {run.last_words()}"))


def _with_output(arena: Arena, words: list, folder: Path, kind: str) -> Run:
    if kind == "ASCII":
        return arena.run(words, folder, fresh=True, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    if kind == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    try:
        return arena.run(words, folder, fresh=True, stdout=writing, stderr=writing if kind.startswith("both") else None)
    finally:
        os.close(writing)


def full_disks(arena: Arena) -> Iterator[Outcome]:
    """Fill the disk at the moment when a file is begun: one line that names it, and everything before it as it was."""
    folder = arena.place("train")
    training = {"snapshot": ("step_00000004", "step_0000000"), "export": (".model.", "model"), "log": ("log.jsonl", ""),
                "curves": (".curves.", "curves")}  # fmt: skip
    inference = {"state": (".state.", "state"), "image": ("/images/.", "images"), "comparison": (".comparison.", "comparison"),
                 "video": (".video.", "video"), "metrics": (".metrics.", "metrics"), "views": (".metrics_views.", "metrics_views"),
                 "scenes": (".metrics_scenes.", "metrics_scenes")}  # fmt: skip
    converter = {
        "photo": (".00003.", "00003"),
        "cameras": (".opencv_cameras.", "opencv_cameras"),
        "list": ("_data_path.", "data_path"),
    }
    for name, base, output, words, places in (
        ("training", "train", "outputs", train(folder, keep=9), training),
        ("inference", "place", "output", INFERENCE, inference),
        ("gif", "place", "output", infer("--video_format", "gif"), {"video": (".video.", "video")}),
        ("converter", "capture", "out", convert(), converter),
        ("colmap", "colmap", "out", [COLMAP, "--input", "capture", "--output", "out"], {"photo": (".00002.", "00002")}),
        ("export", "place", "out", export(), {"photo": (".00002.", "00002"), "list": ("_data_path.", "data_path")}),
        ("packing", "place", "out", pack(), {"pack": (".made_00001.", "made_00001"), "list": (".made_data_path.", "data_path")}),
        ("packs of chunks", "chunks", "out", chunks("--packs", "--workers", 1), {"pack": (".re10k_000001.", "re10k_000001")}),
        (
            "chunks",
            "chunks",
            "out",
            chunks("--workers", 1),
            {"photo": (".000000033367.", "000000033367"), "list": ("_data_path.", "data_path")},
        ),
        ("export to COLMAP", "place", "out", to_colmap(), {"photo": (".00002.", "00002"), "model": (".images.", "images")}),
        ("check", "place", "outputs", [CHECK, "scenes/test_data_path.json"], {"picture": (".contact_sheet", "contact_sheet")}),
    ):
        for place, (path, named) in places.items():
            yield Outcome(f"{name}, {place}", _fill(arena, arena.place(base), output, words, path, named))


def _fill(arena: Arena, folder: Path, output: str, words: list, path: str, named: str) -> str:
    with small_disk(folder / output) as mounted:
        if not mounted:
            return "skipped: no disk can be mounted"
        run = arena.start(words, folder, Pause(path))
        reached = run.wait_for_pause()
        before = {
            name: content
            for name, content in contents(folder).items()
            if not name.endswith(("log.jsonl", ".unfinished", ".lact.lock"))
        }
        filler = os.open(folder / output / "filler", os.O_CREAT | os.O_WRONLY)
        for size in (1 << 16, 1):
            try:
                while os.write(filler, bytes(size)):
                    pass
            except OSError:
                continue
        os.close(filler)
        run.go_on()
        run.finish()
        (folder / output / "filler").unlink()
        after, left = contents(folder), temporaries(folder)
        before = {name: content for name, content in before.items() if ".tmp" not in name}
        changed = [name for name, content in before.items() if after.get(name) != content]
        return first_problem(
            "" if reached else f"never came to the place: {run.last_words()}",
            judge(run.status, run.stderr, names=named),
            f"{len(left)} temporaries left: {left[0]}" if left else "",
            f"another file was changed: {changed[0]}" if changed else "",
        )


def special_outputs(arena: Arena) -> Iterator[Outcome]:
    """Put devices, FIFOs and sockets where programs write; they stay what they are."""
    folder = arena.place("train")
    for name, base, words, place in (
        ("list of the converter", "capture", convert("--data_path_json", "X"), "X"),
        ("list of colmap", "colmap", [COLMAP, "--input", "capture", "--output", "out", "--data_path_json", "X"], "X"),
        ("photo of the converter", "capture", convert(), "out/capture/images/00003.png"),
        ("cameras of the converter", "capture", convert(), "out/capture/opencv_cameras.json"),
        ("list of the export", "place", export(), "out/objects_data_path.json"),
        ("folder of the export", "place", [*export(), "--output", "X"], "X"),
        ("folder of the converter", "capture", convert(), "out"),
        ("metrics", "place", infer(), "output/metrics.json"),
        ("video", "place", infer(), "output/scene_0/video.mp4"),
        ("state", "place", infer("--save_state"), "output/scene_0/state.safetensors"),
        ("comparison", "place", infer(), "output/scene_1/comparison.png"),
        ("folder of inference", "place", infer("--output_dir", "X"), "X"),
        ("pack", "place", pack(), "out/made_00001.zip"),
        ("list of packs", "place", pack(), "out/made_data_path.json"),
        ("folder of packs", "place", pack(), "out"),
        ("pack of a chunk", "chunks", chunks("--packs"), "out/re10k_000001.zip"),
        ("photo of the export to COLMAP", "place", to_colmap(), "out/scene_0/images/00002.png"),
        ("model of the export to COLMAP", "place", to_colmap(), "out/scene_0/sparse/0/images.txt"),
        ("merged list", "parts", [MERGE, "scenes/all_data_path.json"], "scenes/all_data_path.json"),
        ("exported weights", "train", train(folder, steps=4), "outputs/run/model.safetensors"),
        ("log", "train", train(folder, steps=4), "outputs/run/log.jsonl"),
        ("curves", "train", train(folder, steps=4), "outputs/run/curves.png"),
        ("folder of a run", "train", train(folder, steps=4), "outputs/run"),
    ):
        for kind in ("device", "FIFO", "socket"):
            yield Outcome(f"{name}, {kind}", _special(arena, arena.place(base), words, place, kind))


def _special(arena: Arena, folder: Path, words: list, place: str, kind: str) -> str:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = make_special(path, kind)
    except PermissionError:
        return "skipped: no device can be made"
    mode = os.lstat(path).st_mode
    run = arena.run(words, folder, 30)
    is_same = path.exists() and stat.S_IFMT(os.lstat(path).st_mode) == stat.S_IFMT(mode)
    if made:
        made.close()
    left = temporaries(folder)
    return first_problem(
        "" if is_same else f"the {kind} is gone, status {run.status}",
        judge(run.status, run.stderr, [0, 2], names=path.name),
        f"{len(left)} temporaries left: {left[0]}" if left else "",
    )


def make_special(path: Path, kind: str) -> socket.socket | None:
    """Make a file that is none: a device like /dev/null, a FIFO, or a socket, which is returned.

    Raises:
        PermissionError: devices are for root.
    """
    if kind == "device":
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        listener, here = socket.socket(socket.AF_UNIX), os.getcwd()
        os.chdir(path.parent)  # the address of a socket is short
        listener.bind(path.name)
        os.chdir(here)
        return listener
    return None


def special_inputs(arena: Arena) -> Iterator[Outcome]:
    """Put FIFOs, endless devices and folders where programs read: one line within seconds."""
    folder = arena.place("train")
    scene = "scenes/scene_0/opencv_cameras.json"
    state = infer("--load_state", "X", data=None)
    cases = [
        ("photo", "place", infer(), "scenes/scene_0/images/00001.png"),
        ("list of scenes", "place", infer(), "scenes/test_data_path.json"),
        ("scene", "place", infer(), scene),
        ("weights", "place", infer(), "tiny.safetensors"),
        ("weights .pt", "place", [*infer(), "--load", "x.pt"], "x.pt"),
        ("config", "place", infer("--config", "c.yaml"), "c.yaml"),
        ("view index", "place", infer("--view_index", "v.json"), "v.json"),
        ("state", "place", state, "X"),
        ("checked list", "place", [CHECK, "scenes/test_data_path.json"], "scenes/test_data_path.json"),
        ("checked photo", "place", [CHECK, scene], "scenes/scene_0/images/00001.png"),
        ("network of training", "train", train(folder), "network.yaml"),
        ("recipe", "train", [*train(folder), "--recipe", "r.yaml"], "r.yaml"),
        ("photo of training", "train", train(folder), "scenes/scene_0/images/00001.png"),
        ("scene of training", "train", train(folder), scene),
        ("weights of training", "train", [*train(folder, config=None), "--load", "w.safetensors"], "w.safetensors"),
        ("snapshot", "train", train(folder), "outputs/run/snapshot/step_00000002.pt"),
        ("given snapshot", "train", [*train(folder), "--resume", "s.pt"], "s.pt"),
        ("transforms.json", "capture", convert(), "capture/transforms.json"),
        ("photo of a capture", "capture", convert(), "capture/images/00002.png"),
        ("cameras.bin", "colmap", [COLMAP, "--input", "capture", "--output", "out"], "capture/sparse/0/cameras.bin"),
        ("images.bin", "colmap", [COLMAP, "--input", "capture", "--output", "out"], "capture/sparse/0/images.bin"),
        ("photo of colmap", "colmap", [COLMAP, "--input", "capture", "--output", "out"], "capture/images/00001.png"),
        ("begun scene", "place", export(), "out/objects_0_000000/opencv_cameras.json"),
        ("capture", "capture", [TRANSFORMS, "--input", "X", "--output", "out"], "X"),
        ("list of the packing", "place", pack(), "scenes/test_data_path.json"),
        ("scene of the packing", "place", pack(), scene),
        ("photo of the packing", "place", pack(), "scenes/scene_0/images/00001.png"),
        ("pack in a list", "place", infer(data="list.txt"), SCENES),
        ("photo of the export to COLMAP", "place", to_colmap(data=scene), "scenes/scene_0/images/00001.png"),
        ("chunk", "chunks", chunks(), "chunks/000001.torch"),
        ("index of chunks", "chunks", chunks(), "chunks/index.json"),
        ("file of keys", "chunks", chunks("--keys", "keys.txt"), "keys.txt"),
        ("poses_bounds.npy", "llff", llff(), "capture/poses_bounds.npy"),
        ("photo of LLFF", "llff", llff(), "capture/images/00003.png"),
        ("mask", "masks", masked(), "masks/00003.png"),
        ("folder of masks", "masks", masked("--mask", "X"), "X"),
        ("part of a list", "parts", [MERGE, "scenes/all_data_path.json"], "scenes/all_data_path.part-0001-of-0002.json"),
        ("kind of scenes", "place", [EXPORT, "--kind", "X", "--output", "out"], "X"),
    ]
    yield from attack(arena, [Case(f"{name}, untouched", base, words, nothing, (0,)) for name, base, words, _ in cases[:1]])
    for name, base, words, place in cases:
        right = EITHER if name in LEFT_OUT else (2,)
        kinds = ("FIFO", "/dev/zero", "folder", "link to itself") if name in LINKED else ("FIFO", "/dev/zero", "folder")
        yield from attack(arena, [Case(f"{name}, {kind}", base, words, partial(_put, place, kind), right) for kind in kinds])


def _put(place: str, kind: str, folder: Path) -> None:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if place == SCENES:
        (folder / "list.txt").write_text(SCENES)
    path.unlink(missing_ok=True)
    if kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        make_special(path, kind)
    else:
        path.symlink_to(kind)
