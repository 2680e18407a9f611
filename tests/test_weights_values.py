"""Values that weights may hold: finite floating-point numbers, in plain tensors."""

import pytest
import torch
from safetensors.torch import save_file

from config.errors import InputError
from model import load_model
from model.weights.file import read_weights
from model.weights.infer import infer_config
from model.weights.values import FLOATING, all_finite, check_values
from tests.support.weights import equal, fails, small_weights

NAME = "blocks.1.module_list.2.f.c_fc.weight"


def changed(change) -> dict:
    weights = small_weights()
    return weights | {NAME: change(weights[NAME].clone())}


def with_numbers(*numbers: float, dtype: torch.dtype = torch.float32):
    def change(x):
        x = x.to(dtype)
        x.view(-1)[-len(numbers) :] = torch.tensor(numbers, dtype=dtype)
        return x

    return change


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_numbers(float("nan")), "holds 1 number that is not finite; wanted finite floating-point numbers"),
        (with_numbers(float("inf"), -float("inf")), "holds 2 numbers that are not finite"),
        (with_numbers(1e39, dtype=torch.float64), r"holds 1e\+39, which overflows in float32"),
        (lambda x: x.to(torch.int8), "is int8; wanted float64 or float32 or bfloat16 or float16"),
        (lambda x: x > 0, "is bool"),
        (lambda x: x.to(torch.complex64), "is complex64"),
        (lambda x: x.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
    ],
)
def test_other_numbers_are_refused_by_their_name(tmp_path, suffix, change, message):
    path, weights = tmp_path / f"w{suffix}", changed(change)
    torch.save(weights, path) if suffix == ".pt" else save_file(weights, path)
    config = infer_config(small_weights())
    fails(InputError, rf"w{suffix}, {NAME}: {message}", load_model, path, config, "cpu", "float32")


def test_numbers_that_overflow_in_the_compute_dtype_are_refused(tmp_path):
    torch.save(changed(with_numbers(3.4e38)), tmp_path / "w.pt")
    load_model(tmp_path / "w.pt", device="cpu", precision="float32")
    fails(InputError, r"holds 3.4e\+38, which overflows in bfloat16", load_model, tmp_path / "w.pt", None, "cpu", "bfloat16")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_sparse(), "is sparse"),
        (lambda x: x.to_sparse_csr(), "is sparse"),
        (lambda x: x.to("meta"), "is without values"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is quantised"),
        (lambda x: torch.nested.nested_tensor([x[:3], x[3:, :2].contiguous()]), "is nested"),
        (lambda x: torch.nested.nested_tensor([x[:3], x[3:]], layout=torch.jagged), "is nested"),
        (lambda x: torch.zeros(1).expand(10**6, 10**6), r"is \(1000000, 1000000\), 4\d+ bytes of which the file holds 4"),
    ],
)
def test_tensors_of_other_kinds_are_refused_before_they_are_copied(tmp_path, change, message):
    torch.save(changed(change), tmp_path / "w.pt")
    fails(InputError, rf"w.pt, {NAME}: {message}", read_weights, tmp_path / "w.pt")


def test_parameters_views_and_tied_tensors_are_plain(tmp_path):
    weights = small_weights()
    weights[NAME] = torch.nn.Parameter(weights[NAME])
    weights["input_linear.weight"] = weights["input_linear.weight"].t().contiguous().t()
    weights["blocks.0.module_list.0.ln.weight"] = weights["blocks.1.module_list.0.ln.weight"]
    torch.save(weights, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt")
    assert equal(found, weights)
    assert not found[NAME].requires_grad


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_one_number_anywhere_is_found(dtype, number):
    for size in (1, 3, 17, 1000):
        for place in {0, size // 2, size - 1}:
            x = torch.randn(size).to(dtype)
            check_values(x, "x")
            assert all_finite([x])
            x[place] = number
            with pytest.raises(InputError, match="x: holds 1 number that is not finite"):
                check_values(x, "x")
            assert not all_finite([torch.zeros(2), x])


def test_empty_tensors_and_whole_numbers_are_finite():
    check_values(torch.empty(0, 3), "x")
    assert all_finite([torch.empty(0), torch.arange(3)])
    assert not all_finite([torch.full((2,), 3.4e38)], torch.bfloat16)
