"""The notebook in data_example/: what it holds, and that it runs."""

import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "data_example" / "notebook.ipynb"
# Letters of the file: GitHub shows it with its outputs.
MOST_LETTERS = 400_000


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_has_ten_cells_with_outputs_of_one_clean_run():
    assert len(NOTEBOOK.read_text(encoding="utf-8")) < MOST_LETTERS
    code = code_of(read())
    assert len(code) == 10
    ran, last = code[:-1], code[-1]
    assert [cell.execution_count for cell in ran] == list(range(1, 10))
    assert all(cell.outputs for cell in ran[1:])  # the first imports
    assert {output.output_type for cell in ran for output in cell.outputs} == {"execute_result"}
    assert all(line.startswith("# ") for line in last.source.splitlines())  # the viewer, which needs a package more
    assert "show(state)" in last.source


@pytest.mark.slow
def test_its_cells_run(tmp_path, monkeypatch):
    """Run it in a folder of a copy of the project, as in data_example/, on this Python, whatever kernels are installed."""
    for name in ("config", "data", "data_example", "model", "weight", "inference.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "JUPYTER_RUNTIME_DIR").mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = read()
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=dict(os.environ))
    output = folder / "output_notebook"
    assert sorted(os.listdir(output)) == sorted(
        ["inputs.png", "turntable.gif", "comparison.png", "orbit.png", "animal.safetensors", "later.mp4", "flight.mp4"]
    )
    with Image.open(output / "turntable.gif") as video:
        assert (video.n_frames, video.size) == (40, (64, 64))
        frames = []
        for frame in (0, 20):
            video.seek(frame)
            frames.append(np.asarray(video.convert("RGB"), dtype=np.float32) / 255)
    for frame in frames:  # an animal in the middle of a white frame
        assert frame[:4].mean() > 0.95
        assert frame[24:40, 24:40].mean() < 0.7
    assert np.abs(frames[0] - frames[1]).mean() > 0.02
    texts = [output.data["text/plain"] for cell in code_of(notebook) for output in cell.outputs if "data" in output]
    assert re.search(r"SceneState\(12 views of 64×64, object, \d\.\d MB\)", "\n".join(texts))
