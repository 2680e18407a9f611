"""Fixtures of several test files: devices, golden files, the scenes that inference.py is run on, exact disks, Blender."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import inference
from config import config_from_dict
from config.threads import cores
from data.dataset import load_views
from data.scene_format import read_scene
from data_preprocess.blender.pool import REQUIREMENT
from model import load_model
from model.weights.file import save_weights
from tests.support.inference_run import EXACT, SIZE
from tests.support.networks import GOLDEN, small_model
from tests.support.scenes import write_random_data_path

WITHOUT_NETWORK = ("No matching distribution", "ConnectionError", "Connection broken", "ReadTimeout", "Network is unreachable")


def pytest_configure() -> None:
    """Share the cores among pytest-xdist's processes, and those that their tests start: more threads than cores are slow."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, cores() // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `-n auto`: one per core, but not more than memory and the longest files have a use for."""
    return min(cores(), 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, for what they share, and files in order: those of few long tests are not last."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return each device that the main path is tested on: a CPU runs the same lines as a GPU."""
    return torch.device(request.param)


@pytest.fixture(params=["one_head", "two_heads"])
def golden(request: pytest.FixtureRequest) -> dict:
    """Return the tensors of a golden file, its `config`, and `inputs` and `targets` as dicts."""
    with safe_open(GOLDEN / f"{request.param}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        config = config_from_dict(json.loads(file.metadata()["config"]))
    views = {
        part: {name: tensors[f"{part[:-1]}.{name}"] for name in ("image", "fxfycxcy", "c2w")} for part in ("inputs", "targets")
    }
    return {**tensors, **views, "config": config}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Put weights of a small network (patch 4) and three scenes of seven views, 25×34, into a folder."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in ((0, "tiny"), (1, "other")):
        model = small_model("self_attention", "fast_weight", "mlp", seed=seed)
        # A colour per patch: renderings that a video codec keeps, and that differ clearly from view to view.
        decoder = model.image_token_decoder[1].weight
        decoder.data = torch.randn(3, 48, generator=torch.Generator().manual_seed(seed)).mul(0.4).repeat(len(decoder) // 3, 1)
        save_weights(folder / f"{name}.safetensors", model.state_dict(), model.config)
    write_random_data_path(folder, scenes=3, n=7, size=(25, 34))
    return folder


@pytest.fixture
def infer(place, tmp_path, monkeypatch):
    """Return a function that runs the program on these scenes, writes below `tmp_path` and returns the folder."""
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(flags: str, out: str = "out", data: str | None = "test_data_path.json") -> Path:
        words = ["--load", str(place / "tiny.safetensors"), "--output_dir", str(tmp_path / out), *EXACT]
        if data is not None:
            words += ["--data_path", str(place / data), "--newton_schulz_dtype", "float32", "--image_size", *map(str, SIZE)]
        assert inference.main([*words, *shlex.split(flags)]) == 0
        return tmp_path / out

    return run


def spoil(folder: Path) -> None:
    """Put bad input of every kind into a folder."""
    write_random_data_path(folder, scenes=3, n=7, size=(25, 34))
    photo = folder / "scene_1" / "images" / "00003.png"
    photo.write_bytes(photo.read_bytes()[:200])
    (folder / "no_json.json").write_text("[1, 2")
    (folder / "index.json").write_text(json.dumps({"scene_0": {"inputs": [0, 1], "targets": [9]}}))
    (folder / "other.json").write_text(json.dumps({"elsewhere": {"inputs": [0], "targets": [1]}}))
    (folder / "bad.yaml").write_text("patch_size: [\n  dim\n")
    (folder / "file").write_text("")
    (folder / "config.yaml").write_text(json.dumps(small_model("fast_weight", layers=1).config.to_dict()))
    one = json.loads((folder / "scene_0" / "opencv_cameras.json").read_text())
    (folder / "scene_0" / "still.json").write_text(json.dumps([{**view, "w2c": one[0]["w2c"]} for view in one]))


@pytest.fixture(scope="module")
def bad_place(tmp_path_factory, place) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    spoil(folder)
    for name in ("tiny", "other"):
        model = load_model(place / f"{name}.safetensors", device="cpu")
        views = load_views(read_scene(place / "scene_0" / "opencv_cameras.json"), [0, 1], SIZE, patch_size=4)
        model.reconstruct(*(views[key][None] for key in ("image", "fxfycxcy", "c2w"))).save(folder / f"{name}.state")
    return folder


@pytest.fixture
def exact_names(tmp_path: Path) -> None:
    """Skip a test on a disk that takes names in another case, or with accents spelled in another way, for the same."""
    (tmp_path / "caf\u00e9").touch()
    same = [name for name in ("CAF\u00c9", "cafe\u0301") if (tmp_path / name).exists()]
    (tmp_path / "caf\u00e9").unlink()
    if same:
        pytest.skip("this disk ignores case or the spelling of accents")


@pytest.fixture(scope="session")
def blender_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the Python of an environment with Blender: of $BLENDER_PYTHON, or a temporary one, created as documented.

    The latter needs Python 3.11 and a gigabyte of disk.
    """
    if "BLENDER_PYTHON" in os.environ:
        yield Path(os.environ["BLENDER_PYTHON"])
        return
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None:
        pytest.skip("Blender's package wants Python 3.11, and there is none")
    folder = tmp_path_factory.mktemp("blender")
    try:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = subprocess.run([folder / "bin" / "pip", "install", "-q", "-r", REQUIREMENT], capture_output=True, text=True)
        if pip.returncode and any(text in pip.stderr for text in WITHOUT_NETWORK):
            pytest.skip(f"Blender's package is unavailable: {pip.stderr.strip().splitlines()[-1]}")
        assert pip.returncode == 0, pip.stderr
        yield folder / "bin" / "python"
    finally:
        shutil.rmtree(folder)
