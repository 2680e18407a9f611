"""Direction of imports: never to a higher floor, into a program, or in a cycle."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
# From the lowest floor up: a module imports its own floor and lower ones. Within the network likewise.
FLOORS = ("config", "data", "model", "data_preprocess")
NETWORK_FLOORS = ("model.ops", "model.layers", "model.lact_lvsm", "model.weights")


def modules() -> dict[str, Path]:
    """Return the project's own modules by name, the tests apart."""
    files = [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")] + [ROOT / "train.py", ROOT / "inference.py"]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return which of the known modules a file imports, at its top or further in."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= submodules or {node.module}
    return found & set(known)


def floor_of(module: str, floors: tuple[str, ...]) -> int | None:
    """Return the number of the floor that a module is on, if it is on one."""
    return next((i for i, floor in enumerate(floors) if f"{module}.".startswith(f"{floor}.")), None)


def points_up(importer: str, imported: str, floors: tuple[str, ...]) -> bool:
    here, there = floor_of(importer, floors), floor_of(imported, floors)
    return here is not None and there is not None and there > here


def test_imports_run_one_way():
    known = modules()
    programs = {name for name, path in known.items() if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}
    arrows = {name: imports_of(path, known) for name, path in known.items()}
    assert "config.errors" in arrows["data.images"]
    assert {"train", "inference", "data_preprocess.check_scenes"} <= programs
    pairs = [(importer, imported) for importer, targets in arrows.items() for imported in targets]
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in pairs
        if imported in programs or points_up(importer, imported, FLOORS) or points_up(importer, imported, NETWORK_FLOORS)
    ]
    assert wrong == []
    while free := [name for name, targets in arrows.items() if not targets & set(arrows)]:
        for name in free:
            del arrows[name]
    assert not arrows, f"these import each other in a circle: {sorted(arrows)}"
