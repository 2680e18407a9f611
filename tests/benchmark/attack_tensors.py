"""Crafted tensor files: weights of other kinds, tampered states, snapshots and logs."""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, HUGE, Case, attack
from tests.benchmark.attack_inputs import infer, train
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome


def tensors(arena: Arena) -> Iterator[Outcome]:
    """Weights, states, snapshots and logs that were tampered with."""
    made, place, folder = arena.place(), arena.place("place"), arena.place("train")
    arena.run(infer("--save_state"), place)
    arena.run(train(folder, steps=5, keep=9), folder)
    arena.prepare(make_tensors, place, folder, made)

    def copy(kind: str, name: str, target: str) -> Callable[[Path], object]:
        def change(target_folder: Path) -> None:
            (target_folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / kind / name, target_folder / target)

        return change

    def right(path: Path) -> tuple[int, ...]:
        return (0,) if path.name.startswith("right") else (2,)

    snapshot = "outputs/run/snapshot/step_00000003.pt"
    with_state = infer("--load_state", "s.safetensors", data=None)
    weights, states, snapshots = (sorted((made / kind).iterdir()) for kind in ("weights", "states", "snapshots"))
    cases = [
        Case(f"weights, {path.stem}", "place", [*infer(), "--load", path.name], copy("weights", path.name, path.name), right(path))
        for path in weights
    ]
    cases += [
        Case(f"state, {path.stem}", "place", with_state, copy("states", path.name, "s.safetensors"), right(path)) for path in states
    ]
    again = train(folder, steps=5, keep=9)
    cases += [
        Case(f"snapshot, {path.stem}", "train", again, copy("snapshots", path.name, snapshot), right(path)) for path in snapshots
    ]
    cases += [
        Case(f"log, {name}", "train", again, _with_log(folder / snapshot, row), (0,) if name == "right" else EITHER)
        for name, row in LOGS.items()
    ]
    yield from attack(arena, cases)


LOGS = {
    "right": b'{"step": 1, "loss": 0.5, "lr": 0.01}\n',
    "list": b"[1]\n", "text": b'"x"\n', "number": b"3\n", "empty object": b"{}\n", "step null": b'{"step": null}\n',
    "step text": b'{"step": "x"}\n', "step of 400 digits": b'{"step": %d}\n' % HUGE, "step infinite": b'{"step": 1e999}\n',
    "deep": b"[" * 100_000 + b"\n", "no UTF-8": b"\xff\xfe\n", "NUL": bytes(100), "cut": b'{"step": 2, "lo',
    "blank lines": b"\n\n\n",
    "value text": b'{"step": 2, "loss": "x", "psnr": []}\n', "value huge": b'{"step": 2, "loss": 1e308, "psnr": -1e308}\n',
    "value NaN": b'{"step": 2, "loss": NaN, "lr": NaN}\n', "value of 400 digits": b'{"step": 2, "loss": %d}\n' % HUGE,
    "step negative": b'{"step": -5, "loss": 1, "lr": -1}\n', "CRLF": b'{"step": 1, "loss": 1}\r\n',
}  # fmt: skip


def _with_log(snapshot: Path, row: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "outputs/run/snapshot").mkdir(parents=True)
        shutil.copy(snapshot, folder / "outputs/run/snapshot")
        (folder / "outputs/run/log.jsonl").write_bytes(row + b'{"step": 3, "loss": 0.5, "lr": 0.01}\n' * (not row.endswith(b"lo")))

    return change


def make_tensors(place: Path, run: Path, made: Path) -> None:
    """Write the files into the folders `weights`, `states` and `snapshots`."""
    for kind, make in (("weights", make_weights), ("states", make_states), ("snapshots", make_snapshots)):
        (made / kind).mkdir()
        make(place, run, made / kind)


def make_weights(place: Path, run: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    whole = load_file(place / "tiny.safetensors")
    first = next(name for name, x in whole.items() if x.ndim == 2)
    x = whole[first]
    spoilt = x.clone()
    spoilt[0, 0] = torch.nan
    changes: dict[str, object] = {
        "meta": x.to("meta"), "sparse": x.to_sparse(), "quantized": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([x, x]), "expanded": torch.zeros(1).expand(10**6, 10**6), "int8": x.to(torch.int8),
        "bool": x > 0, "complex": x.to(torch.complex64), "NaN": spoilt, "infinite": spoilt.nan_to_num(torch.inf),
        "other shape": x[1:], "no dimension": torch.tensor(1.0), "empty": torch.zeros(0, 5),
        "number": 3,
        "text": "x", "list": [x], "none": None, "float64 too large": x.double() * 1e300, "uint8": x.to(torch.uint8),
        "huge": x * 1e38 * 1e3,
        "expanded to its shape": torch.ones(1, 1).expand_as(x)[:-1],
    }  # fmt: skip
    for name, value in changes.items():
        torch.save({**whole, first: value}, folder / f"{name}.pt")
        if name in ("int8", "bool", "NaN", "infinite", "other shape", "no dimension", "empty", "uint8", "float64 too large"):
            save_file({**whole, first: value}, folder / f"{name} in safetensors.safetensors")  # type: ignore[dict-item]
    torch.save({key: x for key, x in whole.items() if key != first}, folder / "missing.pt")
    torch.save({**whole, "more": x}, folder / "right with more.pt")
    torch.save({}, folder / "no tensors.pt")
    torch.save([x], folder / "a list.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "a module.pt")
    torch.save({**whole, 3: x}, folder / "key 3.pt")
    torch.save(whole, folder / "right.pt")
    deep: object = whole
    for _ in range(300):
        deep = {"model": deep}
    torch.save(deep, folder / "300 deep.pt")
    for name, method in (("right when deflated", zipfile.ZIP_DEFLATED), ("bzipped", zipfile.ZIP_BZIP2)):
        with zipfile.ZipFile(folder / "right.pt") as old, zipfile.ZipFile(folder / f"{name}.pt", "w", method) as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
    with (
        zipfile.ZipFile(folder / "pickle bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
        new.open("w/data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(3000):
            file.write(b"0" * (1 << 20))
    (folder / "code.pt").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    (folder / "empty file.pt").write_bytes(b"")
    (folder / "text file.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    (folder / "text file.safetensors").write_bytes(b"<html>404</html>")
    (folder / "header of 2 exabytes.safetensors").write_bytes(b"\xff" * 7 + b"\x1f" + b"{}" * 9)


def make_states(place: Path, run: Path, folder: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(place / "output/scene_0/state.safetensors", framework="pt") as file:
        whole = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        about = {key: text for key, text in file.metadata().items() if "sum" not in key and "sha" not in key}
    layer = next(key for key in whole if key.startswith("layers.0."))
    tensors: dict[str, dict] = {
        "no cameras": {"fxfycxcy": None}, "no poses": {"c2w": None}, "no layer": {layer: None}, "more": {"more": torch.ones(1)},
        "layer of another shape": {layer: torch.ones(1, 2, 3)}, "layer NaN": {layer: whole[layer] * torch.nan},
        "layer int": {layer: whole[layer].to(torch.int32)}, "layer x": {"layers.x.w0": torch.ones(1)},
        "layer 10^8": {"layers.100000000.w0": torch.ones(1)},
        "layers": {"layers": torch.ones(1)}, "focal 0": {"fxfycxcy": whole["fxfycxcy"] * 0},
        "focal NaN": {"fxfycxcy": whole["fxfycxcy"] * torch.nan},
        "one view": {"c2w": whole["c2w"][:, :1]}, "no views": {"c2w": whole["c2w"][:, :0], "fxfycxcy": whole["fxfycxcy"][:, :0]},
        "focus of another shape": {"focus": torch.ones(7)}, "layer of bool": {layer: whole[layer] > 0},
        "sum NaN": {"sums.0.dw0": torch.tensor([torch.nan])}, "sum int": {"sums.0.dw0": torch.ones(1, dtype=torch.int32)},
        "sum 1e300": {"sums.0.dw0": torch.tensor([1e300], dtype=torch.float64)}, "sum of no layer": {"sums.9.dw0": torch.ones(1)},
        "right for videos, sum of another shape": {"sums.0.dw0": torch.ones(1)},
    }  # fmt: skip
    texts = {"image_size": ["", "null", "[]", "[0, 8]", "[8]", "[1e9, 8]", "[99999999, 8]", "x", "[" * 9999, "[true, 8]", "{}",
    None],
             "model": ["x", None], "format": ["x", None], "normalised": ["x", "3", "[" * 9999]}  # fmt: skip
    for name, change in tensors.items():
        changed = {key: x.contiguous() for key, x in {**whole, **change}.items() if x is not None}
        save_file(changed, folder / f"{name}.safetensors", about)
    for key, values in texts.items():
        for value in values:
            changed = {name: text for name, text in {**about, key: value}.items() if text is not None}
            save_file(whole, folder / f"{key} {value!r:.14}.safetensors".replace("/", ""), changed)
    save_file(whole, folder / "no metadata.safetensors")
    save_file(whole, folder / "right.safetensors", about)


# Parts that a snapshot may hold so: left out, of another number of processes, or of other settings, all of which are named.
HARMLESS = ("optimizer None", "average None", "average {}", "skips 3", "step 3", "code_version 'x'", "recipe {}", "rng []")


def make_snapshots(place: Path, run: Path, folder: Path) -> None:
    import torch

    whole = torch.load(run / "outputs/run/snapshot/step_00000003.pt", weights_only=True)
    odd = (None, 3, "x", [], {}, [3], {"a": 1}, torch.ones(2))
    named = {f"{part} {value!r:.10}": {part: value} for part in whole if part != "format" for value in odd}
    changes = [(name, change) for name, change in named.items() if name not in HARMLESS]
    changes += [
        ("step -1", {"step": -1}),
        ("step huge", {"step": HUGE}),
        ("step true", {"step": True}),
        ("skips -1", {"skips": -1}),
    ]
    optimizer = whole["optimizer"]
    if "state" in optimizer:
        first, state = next(iter(optimizer["state"].items()))
        for name, moment in {
            "of another shape": torch.ones(2, 2, 2),
            "NaN": state["exp_avg"] * torch.nan,
            "text": "x",
            "gone": None,
        }.items():
            new = {key: x for key, x in {**state, "exp_avg": moment}.items() if x is not None}
            changes.append((f"moment {name}", {"optimizer": {**optimizer, "state": {**optimizer["state"], first: new}}}))
        changes.append(("no groups", {"optimizer": {**optimizer, "param_groups": []}}))
        changes.append(("groups text", {"optimizer": {**optimizer, "param_groups": "x"}}))
        changes.append(("no moments", {"optimizer": {**optimizer, "state": {}}}))
    key = next(iter(whole["model"]))
    for name, x in {
        "NaN": whole["model"][key] * torch.nan,
        "of another shape": torch.ones(3),
        "complex": whole["model"][key] * 1j,
    }.items():
        changes.append((f"weight {name}", {"model": {**whole["model"], key: x}}))
    changes.append(("weight gone", {"model": {name: x for name, x in whole["model"].items() if name != key}}))
    for setting, value in (("steps", "x"), ("image_size", 3), ("unknown", 3), ("lr", None), ("image_size", [8, [12]]), ("lr", "1")):
        changes.append((f"recipe {setting} {value!r}", {"recipe": {**whole["recipe"], setting: value}}))
    for setting, value in (("dim", 2**40), ("dim", "x"), ("block", 3), ("layers", -1)):
        changes.append((f"config {setting} {value!r}", {"config": {**whole["config"], setting: value}}))
    for name, rng in (
        ("python", 3),
        ("python", [3, [1], None]),
        ("numpy", []),
        ("torch", torch.ones(3)),
        ("torch", None),
    ):
        changes.append((f"rng {name} {type(rng).__name__}", {"rng": [{**state, name: rng} for state in whole["rng"]]}))
    for name, change in changes:
        torch.save({**whole, **change}, folder / f"{name}.pt")
    for name, content in (
        ("a list", [whole]),
        ("a number", 3),
        ("no parts", {"format": whole["format"]}),
        ("another format", {**whole, "format": 9}),
    ):
        torch.save(content, folder / f"{name}.pt")
    torch.save(whole, folder / "right.pt")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_bytes(b"hello")
