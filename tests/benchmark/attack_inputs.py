"""Inputs of the attacks, made by the tests' support modules of the checkout, and the command lines that take them."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from data.output.tables import SPEEDS

TRAIN = {"steps": 24, "save_every": 1, "keep": 3, "log_every": 2}
PLACE = ("--load", "tiny.safetensors", "--device", "cpu", "--precision", "float32")
VIEWS = ("--no_lpips", "--num_input_views", 3, "--image_size", 20, 28)
TRANSFORMS = "data_preprocess/transforms_format_converter.py"
COLMAP = "data_preprocess/colmap_format_converter.py"
EXPORT = "data_preprocess/synthetic_export.py"
CHECK = "data_preprocess/check_scenes.py"


def train(folder: Path, **changes: object) -> list[object]:
    """Return the command of a training run `run`; None drops a setting."""
    settings = {**json.loads((folder / "settings.json").read_text()), **TRAIN, "expname": "run", **changes}
    words: list[object] = ["train.py"]
    for name, value in settings.items():
        if value is not None:
            words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return words


def infer(*flags: object, data: str | None = "scenes/test_data_path.json") -> list[object]:
    """Return the command of an inference; `data=None`: without scenes."""
    words = ["inference.py", *PLACE] + ([] if data is None else ["--data_path", data, *VIEWS])
    return [*words, *([] if "--video_frames" in flags else ["--video_frames", 6]), *flags]


def convert(*flags: object) -> list[object]:
    return [TRANSFORMS, "--input", "capture", "--output", "out", *flags]


def export(*flags: object) -> list[object]:
    return [EXPORT, "--kind", "objects", "--output", "out", "--num_views", 4, "--image_size", 16, 16, "--samples", 1, *flags]


def make_inputs(folder: Path) -> None:
    """Make the folders `train`, `place` (weights and scenes), `capture` and `colmap`. Runs in a process of its own."""
    from tests.support.networks import small_model
    from tests.support.scenes import write_random_data_path
    from tests.support.training_run import SETTINGS, furnish

    (folder / "train").mkdir(parents=True)
    furnish(folder / "train")
    settings = {name: value for name, value in SETTINGS.items() if not isinstance(value, bool)}
    (folder / "train" / "settings.json").write_text(json.dumps(settings))

    from model.weights.file import save_weights

    place, model = folder / "place", small_model("self_attention", "fast_weight", "mlp")
    write_random_data_path(place / "scenes", scenes=2, n=6, size=(25, 34))
    save_weights(place / "tiny.safetensors", model.state_dict(), model.config)
    (place / "config.json").write_text(json.dumps(model.config.to_dict()))
    make_capture(folder / "capture" / "capture", photos=8)
    make_colmap(folder / "colmap" / "capture")


def make_capture(folder: Path, photos: int) -> None:
    import numpy as np

    from tests.support.captures import dots, orbit, paint, project, write_transforms

    h, w, poses = 60, 84, orbit(photos)
    camera = (80.0, 82.0, 41.0, 31.0)
    images = [paint(project(dots(), np.linalg.inv(pose), camera), (h, w)) for pose in poses]
    top = {"fl_x": 80.0, "fl_y": 82.0, "cx": 41.0, "cy": 31.0, "w": w, "h": h, "k1": 0.01}
    write_transforms(folder, images, poses, top)


def make_colmap(folder: Path) -> None:
    """Make a capture with a model, and the model as text beside it."""
    import numpy as np

    from tests.support.captures import orbit
    from tests.support.colmap_files import quaternion, write_binary, write_text

    cameras, images = {1: ("OPENCV", 84, 60, (80.0, 82.0, 41.0, 31.0, 0.01, 0.0, 0.0, 0.0))}, []
    make_capture(folder / "made", photos=4)
    shutil.move(folder / "made" / "images", folder / "images")
    shutil.rmtree(folder / "made")
    for i, pose in enumerate(orbit(4)):
        w2c = np.linalg.inv(pose)
        images.append((i + 1, quaternion(w2c), w2c[:3, 3], 1, f"{i:05d}.png"))
    write_binary(folder / "sparse" / "0", cameras, images)
    write_text(folder.parent / "text", cameras, images)


def results(folder: Path) -> dict[str, bytes]:
    """Return what an output folder holds, apart from figures of speed and memory, and from pages and tables that show them."""
    found = contents(folder)
    for name, content in found.items():
        if name.endswith("metrics.json"):
            found[name] = json.dumps(_untimed(json.loads(content))).encode()
        elif name.endswith(".zip"):
            found[name] = content[: content.rfind(b"PK\5\6") + 20]  # without the comment, which names the folders of the input
        elif name.endswith((".html", ".md", ".tex")):
            found[name] = b""
    return found


def _untimed(value: object) -> object:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in SPEEDS}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds, byte for byte; special files and links by their kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a temporary file that its program has just removed
            if path.is_file():
                found[str(path.relative_to(folder))] = path.read_bytes()
            elif not path.is_dir():
                found[str(path.relative_to(folder))] = oct(os.lstat(path).st_mode).encode()
    return found
