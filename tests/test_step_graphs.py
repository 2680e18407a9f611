"""Steps replayed as CUDA graphs, as far as a CPU can show it; `test_device_programs.py` compares them with eager ones on a GPU."""

import torch

from model.training.step_graphs import StepGraphs


def test_a_capture_that_fails_leaves_no_gradients_behind(capsys):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    graphs = StepGraphs.__new__(StepGraphs)  # its constructor needs a GPU
    graphs._optimizer, graphs._batch, graphs._graphs, graphs._works = optimizer, {}, {}, True

    def capture(setting):
        weight.grad = torch.full((2,), torch.nan)  # what lies in the memory of a capture
        raise RuntimeError("operation not permitted when stream is capturing")

    def step(batches, setting):
        (weight * next(batches)["x"]).sum().backward()
        return weight.grad

    graphs._capture, graphs._step = capture, step
    assert graphs._replay({"x": torch.tensor([2.0, 3.0])}, "setting").tolist() == [2, 3]
    assert not graphs._works
    assert "steps run eagerly, since capturing one failed (RuntimeError: operation not permitted" in capsys.readouterr().err
