"""Crafted scenes, pictures and flags. Letters: h w pixels."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, HUGE, Case, attack, nothing
from tests.benchmark.attack_inputs import CHECK, COLMAP, EXPORT, TRANSFORMS, convert, export, infer, train
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome, judge, own_lines


def _with(file: str, path: tuple, value: object) -> Callable[[Path], None]:
    """Return a change of one value in a JSON file; `KeyError` as the value removes it."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        (folder / file).write_text(json.dumps(content))

    return change


def data(arena: Arena) -> Iterator[Outcome]:
    """Numbers and pictures of scenes and captures."""
    yield from attack(arena, _numbers())
    yield from attack(arena, _pictures())


def _numbers() -> Iterator[Case]:
    scene, listed = "scenes/scene_0/opencv_cameras.json", "scenes/test_data_path.json"
    yield from (
        Case("scene, untouched", "place", infer(), nothing, (0,)),
        Case("capture, untouched", "capture", convert(), nothing, (0,)),
    )
    numbers = (HUGE, -HUGE, 1e308, 5e-324, 1e-300, float("nan"), float("inf"), 0, -1, True, None, "1", [1], {}, KeyError)
    for key in ("fx", "cx", "w", "h"):
        for value in numbers:
            harmless = EITHER if key == "cx" and value in (0, -1, 5e-324, 1e-300) else (2,)
            yield Case(f"scene, {key} {value!r:.12}", "place", infer(), _with(scene, (1, key), value), harmless)
    for value in (1e20, 1e308, HUGE, float("nan"), "x", None):
        yield Case(f"scene, w2c {value!r:.12}", "place", infer(), _with(scene, (1, "w2c", 0, 3), value))
    for value in (HUGE, 1e308, float("nan"), "1", None, [1], {}, True):
        for key in ("fl_x", "cx", "w", "h", "k1", "p2"):
            right = EITHER if value is None else (2,)
            yield Case(
                f"transforms, {key} {value!r:.12}", "capture", convert(), _with("capture/transforms.json", (key,), value), right
            )
        path = ("frames", 1, "transform_matrix", 0, 3)
        yield Case(f"transforms, matrix {value!r:.12}", "capture", convert(), _with("capture/transforms.json", path, value))
    for name, top in {
        "camera_angle_x 5e-324": {"camera_angle_x": 5e-324}, "camera_angle_x 1e308": {"camera_angle_x": 1e308},
        "w 40000": {"w": 40000},
        "fl_x only": {"fl_x": 80.0, "fl_y": None}, "no focal length": {}, "k1 1e300": {"fl_x": 80.0, "k1": 1e300},
        "fisheye k1 -5": {"fl_x": 80.0, "k1": -5.0, "camera_model": "OPENCV_FISHEYE"}, "unknown lens": {"fl_x": 8.0,
        "camera_model": "X"},
    }.items():  # fmt: skip
        right = EITHER if name in ("fl_x only", "fisheye k1 -5") else (2,)
        yield Case(f"transforms, {name}", "capture", convert(), lambda folder, top=top: _replace_top(folder, top), right)
    for name, text in {"deep": "[" * 100_000, "400 digits": f"[{HUGE}]", "null": "null", "names": '["../x"]',
    "NUL": '["a\\u0000b"]',
                       "surrogate": '["\\ud800"]', "5000 letters": json.dumps(["x" * 5000]), "itself": '["test_data_path.json"]',
                       "object": '{"a": 1}', "empty": "[]", "bytes": "\ufffe", "folder": '["scene_0"]'}.items():  # fmt: skip
        for program, words in (("inference", infer()), ("check", [CHECK, listed])):
            yield Case(f"{program}, list {name}", "place", words, lambda folder, text=text: (folder / listed).write_text(text))


def _replace_top(folder: Path, top: dict) -> None:
    file = folder / "capture/transforms.json"
    file.write_text(json.dumps({**top, "frames": json.loads(file.read_text())["frames"]}))


def png(h: int, w: int, bits: int = 8, colour: int = 2, pixels: bytes | None = None, before: bytes = b"") -> bytes:
    """Return a PNG of zeros, or of packed `pixels`."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if pixels is None:
        packer, pixels = zlib.compressobj(9), b""
        for _ in range(h):
            pixels += packer.compress(bytes(1 + w * channels * bits // 8))
        pixels += packer.flush()
    header = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def crafted_pictures() -> dict[str, bytes]:
    """Return files that are no pictures, or odd ones, by name."""
    return {name: content for name, (content, _) in _judged_pictures().items()}


def _judged_pictures() -> dict[str, tuple[bytes, tuple[int, ...]]]:
    """Return the files, and the right statuses of programs that need a picture of 25×34."""
    text_bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 << 20)))
    profile_bomb = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300 << 20)))
    many = b"".join(chunk(b"tEXt", b"k%d\0v" % i) for i in range(100_000))
    return {
        "right": (png(25, 34), (0,)), "empty": (b"", (2,)), "text": (b"hello", (2,)),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (2,)),
        "no palette": (png(25, 34, colour=3), (2,)), "60000 by 1": (png(1, 60000), (2,)), "1 by 60000": (png(60000, 1), (2,)),
        "30000 by 30000": (png(30000, 30000, colour=0, pixels=zlib.compress(b"")), (2,)), "no side": (png(0, 0), (2,)),
        "pixels cut": (png(25, 34, pixels=zlib.compress(bytes(90))), (2,)), "pixels no zlib": (png(25, 34, pixels=b"xx"), (2,)),
        "text bomb": (png(25, 34, before=text_bomb), EITHER), "profile bomb": (png(25, 34, before=profile_bomb), EITHER),
        "100000 texts": (png(25, 34, before=many), EITHER), "EXIF garbage": (png(25, 34, before=chunk(b"eXIf", b"MM\0*\xff" * 9)),
        EITHER),
        "EXIF empty": (png(25, 34, before=chunk(b"eXIf", b"")), EITHER), "palette of 1": (png(25, 34, colour=3,
        before=chunk(b"PLTE", b"abc")), EITHER),
        "palette of 2 bytes": (png(25, 34, colour=3, before=chunk(b"PLTE", b"ab")), EITHER),
        "short transparency": (png(25, 34, before=chunk(b"tRNS", b"a")), EITHER),
        "pixels bomb": (png(25, 34, pixels=zlib.compress(bytes(300 << 20))), EITHER),
        "GIF cut": (b"GIF89a" + bytes([34, 0, 25, 0, 0x80, 0, 0]), (2,)), "JPEG head": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", (2,)),
        "JPEG of segments": (b"\xff\xd8" + b"\xff\xe1\xff\xff" + bytes(65533) * 9, (2,)), "WebP head": (b"RIFF\x99\0\0\0WEBPVP8X",
        (2,)),
        "TIFF loop": (b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0", (2,)),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", (2,)),
    }  # fmt: skip


def _pictures() -> Iterator[Case]:
    for name, (content, right) in _judged_pictures().items():
        for program, base, words, file in (
            ("inference", "place", infer(), "scenes/scene_0/images/00001.png"),
            ("check", "place", [CHECK, "scenes/test_data_path.json"], "scenes/scene_0/images/00001.png"),
            ("converter", "capture", convert(), "capture/images/00001.png"),
            ("colmap", "colmap", [COLMAP, "--input", "capture", "--output", "out"], "capture/images/00001.png"),
        ):
            # Converters need another size than this: whatever can be read is refused there.
            wanted = right if base == "place" else EITHER
            yield Case(
                f"{program}, picture {name}", base, words, lambda folder, f=file, c=content: (folder / f).write_bytes(c), wanted
            )


def flags(arena: Arena) -> Iterator[Outcome]:
    """Flags that make no sense, and a password in an address."""
    folder = arena.place("train")
    yield from attack(arena, _flags(folder))
    run = arena.run(
        ["data_preprocess/weights_download.py", "obj_res256", "--output", "w"], arena.place(), 90, fresh=True, HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://user:SECRETPW@127.0.0.1:1", HF_HOME=str(folder / "hub"),
    )  # fmt: skip
    shown = "SECRETPW" in run.stderr + run.stdout
    status = judge(run.status, run.stderr, lines=range(1, 40))
    yield Outcome(
        "password in HF_ENDPOINT", "is shown" if shown else status or f"{own_lines(run.stderr)[-1][:200]}" * (run.status != 2)
    )


def _flags(folder: Path) -> Iterator[Case]:
    commands = {"export": ("place", export()), "training": ("train", train(folder)), "inference": ("place", infer())}
    yield from (Case(f"{name} as it is", base, words, nothing, (0,)) for name, (base, words) in commands.items())
    for text in (
        "--count 0", "--count -1", "--count 1000000000", "--count x", "--device x", "--device cuda:99", "--device mps",
        "--samples 0",
        "--samples 3", "--samples 8192", "--seed -1", f"--seed {HUGE}", "--output /dev/null/x", "--name ../x", "--name a/b",
        f"--name {'n' * 300}", "--unknown 3", "--kind x", "--image_size 0 0", "--image_size 1000000000 8",
        "--image_size 8",
        "--num_views 0", "--num_views 1000000", "--indices 0 0", "--indices -1", f"--indices {HUGE}", "--layout x", "--workers -1",
        "--workers 100000", "--count nan", "--count 1.5", "--first_index -1", f"--first_index {HUGE}", "--output /proc/x", "x",
    ):  # fmt: skip
        yield Case(f"export {text:.30}", "place", [*export(), *text.split()], nothing)
    yield Case("export without flags", "place", [EXPORT], nothing)
    for text in (
        "--steps 0", "--steps -1", "--steps 1e400", f"--steps {HUGE}", "--steps 1.5", "--lr nan", "--lr -1", "--lr inf",
        "--expname ../x",
        "--expname /x", f"--expname {'n' * 300}", "--image_size 7 12", "--image_size 0 0", "--bs_per_gpu 1000000000000",
        "--bs_per_gpu 0",
        "--num_input_views 0", "--num_input_views 999", "--resume nothing.pt", "--resume /",
        "--load nothing.pt",
        "--data_path nothing.json", "--data_path /", "--data_path synthetic:x", "--data_path synthetic:objects:0",
        f"--data_path synthetic:objects:{HUGE}", "--seed -1", f"--seed {HUGE}", "--device x", "--precision x", "--workers 0",
        "--workers 1000000", "--max_hours nan", "--max_hours -1", "--snapshot_parts x", "--snapshot_parts 0",
        "--snapshot_parts 1", "--ema 1",
        "--ema nan", "--grad_clip 0", "--context_parallel 3", "--keep 0", "--stepz 3", "--st 3", "--warmup -1", "--wandb",
        "--recipe /",
    ):  # fmt: skip
        yield Case(
            f"training {text:.30}", "train", [*train(folder), *text.split()], nothing, EITHER if "workers 1000000" in text else (2,)
        )
    for text in (
        "--image_size 7 12", "--image_size 0 0", "--image_size 1000000 1000000", "--num_input_views 0", "--num_input_views 99",
        "--num_target_views 99", "--target_every 0", "--video_frames 0", "--video_frames -1", "--video_fps 0", "--video_fps 1000",
        "--chunk_views 0", "--num_workers -1", "--num_workers 1000000", "--device x", "--load /", "--load nothing.pt",
        "--data_path /",
        "--output_dir /dev/null/x", "--output_dir tiny.safetensors", "--scene_scale nan", "--scene_scale 0",
        "--view_index nothing.json",
        "--load_state nothing", "--seed -1", "--video_format avi", "--x", "x", "--config /", "--pose_reference x",
        "--load hf://x/y",
    ):  # fmt: skip
        yield Case(
            f"inference {text:.30}", "place", [*infer(), *text.split()], nothing, EITHER if "workers 1000000" in text else (2,)
        )
    for name, base, words in (
        ("converter without flags", "place", [TRANSFORMS]), ("converter of nothing", "place", [TRANSFORMS, "--input", "no",
        "--output", "o"]),
        ("converter into a file", "capture", [*convert(), "--output", "capture/transforms.json"]),
        ("converter, workers 0", "capture", convert("--workers", 0)), ("colmap of nothing", "place", [COLMAP, "--input", "x",
        "--output", "o"]),
        ("check of nothing", "place", [CHECK, "no.json"]), ("check without flags", "place", [CHECK]),
        ("weights unknown", "place", ["data_preprocess/weights_download.py", "x" * 3000]),
    ):  # fmt: skip
        yield Case(name, base, words, nothing)
