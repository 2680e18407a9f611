"""Layer parameters and YAML that a program must refuse in one line."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.benchmark.attack_cases import HUGE, Case, attack
from tests.benchmark.attack_inputs import infer
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome


def settings(arena: Arena) -> Iterator[Outcome]:
    """Layer parameters in a config, in a weight file's metadata and in training; YAML that breaks parsers."""
    yield from attack(arena, _layer_parameters())
    yield from attack(arena, _yaml_oddities())


def _layer_parameters() -> Iterator[Case]:
    numbers = (8.5, True, -8, 0, "8", float("inf"), float("nan"), [8], None, 2**40, HUGE)
    wrong = [
        ((i, "params", key), value) for i, key in ((0, "head_dim"), (1, "inter_multi"), (2, "inter_multi")) for value in numbers
    ]
    wrong += [((1, "params", "base_lr"), value) for value in (float("nan"), float("inf"), "x", [], HUGE)]
    wrong += [((1, "params", "muon_update_steps"), value) for value in (2.5, -1, 10**9, True, float("nan"), HUGE)]
    wrong += [((1, "params", "w1_only"), 3), ((0, "params", "use_qk_norm"), "yes"), ((0, "params", "use_qk_norm"), 2)]
    wrong += [((0, "params", "unknown"), 1), ((0, "params"), [1]), ((0, "params"), "x"), ((0, "type"), []), ((0, "type"), {})]
    wrong += [((0, "type"), 3), ((0, "type"), "os.system"), ((0, "length_dim"), "v"), ((0, "length_dim"), [1]), ((0,), None)]
    wrong += [((1, "params", "address"), value) for value in ({}, [], {"phases": [], "sites": 3, "lowest": 1, "highest": 2})]
    for target in ("--config", "metadata", "training"):
        yield _config_case(f"{target}, untouched", ("patch_size",), 4, target, (0,))
    for path, value in wrong:
        yield _config_case(f"block {'.'.join(map(str, path))} {value!r:.20}", ("block", *path), value)
    for key in ("dim", "layers", "patch_size"):
        for value in (0, -1, 1.5, "48", True, None, 10**9, 2**40, HUGE, float("nan"), [2]):
            yield _config_case(f"{key} {value!r:.20}", (key,), value)
    for value in ([], {}, "x", [[]], None, [None], 5):
        yield _config_case(f"block {value!r}", ("block",), value)
    registers = {"type": "register_attention", "length_dim": "vl", "params": {"head_dim": 16, "num_registers": -1}}
    for value in (-1, 0, 1.5, 10**12):
        layer = {**registers, "params": {"head_dim": 16, "num_registers": value}}
        yield _config_case(f"num_registers {value}", ("block", 0), layer)
    for path, value in ((("dim",), 2**40), (("layers",), 10**9), (("block", 1, "params", "muon_update_steps"), 10**9)):
        for target in ("metadata", "training"):
            yield _config_case(f"{target}, {path[-1]} {value}", path, value, target)


def _config_case(name: str, path: tuple, value: object, target: str = "--config", right: tuple = (2,)) -> Case:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        inner = config
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        text = json.dumps(config).replace("Infinity", ".inf").replace("NaN", ".nan")
        (folder / "c.yaml").write_text(text)
        if target == "metadata":
            content = (folder / "tiny.safetensors").read_bytes()
            size = struct.unpack("<Q", content[:8])[0]
            header = json.loads(content[8 : 8 + size])
            header["__metadata__"] = {"config": json.dumps(config)}
            new = json.dumps(header).encode()
            (folder / "tiny.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])

    words = infer(*([] if target == "metadata" else ["--config", "c.yaml"]))
    if target == "training":
        run = "--config c.yaml --data_path scenes/test_data_path.json --device cpu --image_size 8 12 --num_all_views 4 --steps 3"
        words = ["train.py", *f"{run} --num_input_views 2 --num_target_views 2 --lpips_weight 0 --warmup 1".split()]
    return Case(f"config, {name}", "place", words, change, right)


def _yaml_oddities() -> Iterator[Case]:
    bomb = "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])
    texts = {
        "empty": "", "list": "[1]", "number": "3", "binary": "\x00\x01", "!!int": 'dim: !!int ""', "!!float": 'dim: !!float ""',
        "!!bool": "dim: !!bool x", "!!timestamp": "dim: !!timestamp x", "date": "dim: 2026-99-99", "!!binary": "dim: !!binary x",
        "object": "dim: !!python/object/apply:os.system [true]", "20000 [": "dim: " + "[" * 20000, "bomb": bomb + "\ndim: *a11",
        "bomb of keys": bomb, "anchor of itself": "dim: &a [*a]", "unknown alias": "dim: *b", "key of a list": "? [1]\n: 2",
        "merge": "<<: 3", "tab": "\tdim: 3", "two documents": "dim: 3\n---\ndim: 4", "400 digits": f"dim: {HUGE}",
        "100 kB of text": "dim: " + "x" * 100_000, "100 kB of a key": "x" * 100_000 + ": 1", "!!set": "dim: !!set {a, b}",
        "colon number": "dim: 190:20:30:59:59:59:59:59:59", "same key twice": "dim: [1]\ndim: {}", "emoji": "dim: \U0001f600\ud7ff",
    }  # fmt: skip
    for name, text in texts.items():
        for flag, base, words in (("--config", "place", infer("--config", "x.yaml")), ("--recipe", "train", None)):
            words = words or ["train.py", "--recipe", "x.yaml"]
            own = text.replace("dim:", "steps:") if base == "train" else text  # a key that recipes have
            yield Case(f"YAML, {flag}, {name}", base, words, lambda folder, text=own: (folder / "x.yaml").write_text(text))
