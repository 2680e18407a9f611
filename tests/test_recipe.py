"""Settings of a training run: defaults, YAML, command line, and what they refuse."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from config import load_config
from config.errors import InputError
from config.recipe import FIELDS, TrainingRecipe, differences, parse_size, read_recipe, recipe_from_dict

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "config" / "train").glob("*.yaml"))
DATA = ["--data_path", "synthetic:objects"]


def yaml(folder: Path, text: str) -> list[str]:
    (folder / "recipe.yaml").write_text(text)
    return ["--recipe", str(folder / "recipe.yaml")]


def test_defaults_are_the_published_ones():
    recipe = read_recipe(DATA)
    # The published trainer's flags, and SPEC of the published recipe: peak, warm-up, decay, LPIPS, clip, skip.
    assert (recipe.bs_per_gpu, recipe.num_all_views, recipe.num_input_views, recipe.num_target_views) == (8, 15, 8, 8)
    assert (recipe.image_size, recipe.steps, recipe.warmup, recipe.lr, recipe.weight_decay) == ((256, 256), 80000, 4000, 4e-4, 0.05)
    assert (recipe.lpips_start, recipe.lpips_weight, recipe.save_every, recipe.log_every) == (5000, 1.0, 1000, 100)
    assert (recipe.grad_clip, recipe.skip_norm, recipe.skip_norm_start) == (1.0, 4.0, 1000)
    assert (recipe.compile, recipe.actckpt, recipe.scene_pose_normalize) == (False, False, False)


def test_command_line_wins_over_yaml_over_defaults(tmp_path):
    text = "data_path: a.json\nlr: 1.0e-3\nsteps: 9000\nimage_size: [64, 96]\ncompile: true\nactckpt: true\nmax_hours: 2\n"
    argv = [*yaml(tmp_path, text), "--steps", "5000", "--no-compile", "--image_size", "8", "16"]
    recipe = read_recipe(argv)
    assert (recipe.data_path, recipe.lr, recipe.steps, recipe.image_size) == ("a.json", 1e-3, 5000, (8, 16))
    assert (recipe.compile, recipe.actckpt, recipe.max_hours, recipe.warmup) == (False, True, 2.0, 4000)
    assert type(recipe.max_hours) is float


def test_every_field_is_a_flag_of_its_own_type():
    values = {
        "precision": "float32",
        "resume": "none",
        "data_path": "a.json",
        "val_data_path": "b.json",
        "image_size": (8, 16),
        "warmup": 1,
        "steps": 2,
        "ema": 0.5,
        "num_all_views": 50,
        "frame_window": 60,
        "crop_margin": 0.5,
        "context_parallel": 1,
        "export": "bfloat16",
        "optimizer": "muon",
        "compile_mode": "reduce-overhead",
        "schedule": "constant",
        "snapshot_parts": "9M",
        "snapshot_total": "80M",
    }
    for name, field in FIELDS.items():
        values.setdefault(name, {str: "x", int: 9, float: 2.0, bool: True}.get(type(field.default), "x"))
    values |= {"max_hours": 2.0, "wandb": "x", "load": "x", "min_input_views": 4, "grad_accum": 1}
    del values["actckpt"]  # for cuda_graphs
    del values["pool"], values["pool_reuse"]  # of synthetic data, which has no frames and no files
    pool = read_recipe([*DATA, "--pool", "9", "--pool_reuse", "3"])
    assert (pool.pool, pool.pool_reuse) == (9, 3)
    argv = []
    for name, value in values.items():
        items = value if isinstance(value, tuple) else (value,)
        argv += [f"--{name}"] if value is True else [f"--{name}", *map(str, items)]
    assert read_recipe(argv) == TrainingRecipe(**values)
    assert read_recipe([*DATA, "--actckpt"]).actckpt


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_fit_their_network(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    extra = [] if "data_path:" in path.read_text().replace("val_data_path:", "") else ["--data_path", "train_data_path.json"]
    recipe = read_recipe(["--recipe", str(path), *extra])
    config = load_config(recipe.config)
    assert all(side % config.patch_size == 0 for side in recipe.image_size)
    assert recipe.expname == path.stem


def test_shipped_stages_lead_into_each_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    chain = ["scene_128x128", "scene_72x128", "scene_144x256", "scene_288x512", "scene_536x960"]
    for before, after in [("object_256", "object_512"), *itertools.pairwise(chain)]:
        stages = [read_recipe(["--recipe", f"config/train/{name}.yaml", *DATA[:1], "a.json"]) for name in (before, after)]
        assert stages[1].load == f"outputs/{before}/model.safetensors"
        assert stages[0].config == stages[1].config  # or the weights would not load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1.0", r"recipe.yaml, learning_rate: is unknown; wanted a known key; .*known: config, expname"),
        (r'load: "a\0b"', r"recipe.yaml, load: is 'a\\x00b'; wanted text without NUL"),
        ("warm_up: 1", r"recipe.yaml, warm_up: is unknown; wanted a known key; did you mean 'warmup'\?"),
        ("lr: 1e-4", r"recipe.yaml, lr: is '1e-4'; wanted a number \(YAML reads 1e-4 as text: write 1.0e-4\)"),
        ("steps: 1.0e+3", r"recipe.yaml, steps: is 1000.0; wanted a whole number"),
        (f"bs_per_gpu: {10**400}", r"recipe.yaml, bs_per_gpu: is 10{40}.*; wanted 2147483647 at most"),
        ("steps: true", r"recipe.yaml, steps: is True; wanted a whole number"),
        ("lr: true", r"recipe.yaml, lr: is True; wanted a number"),
        ("compile: 1", r"recipe.yaml, compile: is 1; wanted true or false"),
        ("expname: 7", r"recipe.yaml, expname: is 7; wanted text"),
        ("steps: null", r"recipe.yaml, steps: is None; wanted a whole number"),
        (f"lr: {10**400}", r"recipe.yaml, lr: is 1000.*; wanted a number"),
        ("image_size: 64", r"recipe.yaml, image_size: is 64; wanted two whole numbers, height and width"),
        ("image_size: [64, 64.0]", r"recipe.yaml, image_size: is \[64, 64.0\]; wanted two whole numbers"),
        ("image_size: [64]", r"recipe.yaml, image_size: is \[64\]; wanted two whole numbers"),
        ("precision: fp16", r"recipe.yaml, precision: is 'fp16'; wanted auto, float32, bfloat16"),
        ("bs_per_gpu: 0", r"recipe.yaml, bs_per_gpu: is 0; wanted 1 or more"),
        ("image_size: [8, 0]", r"recipe.yaml, image_size: is 8 0; wanted 1 or more"),
        ("lr: .nan", r"recipe.yaml, lr: is nan; wanted 0 or more"),
        ("lr: .inf", r"recipe.yaml, lr: is inf; wanted 0 or more"),
        ("- steps", r"recipe.yaml: holds a list; wanted a YAML file with a mapping"),
        ("warmup: 80000", r"recipe.yaml, warmup: is 80000 of 80000 steps; wanted fewer than steps"),
        ("pool_reuse: 9", r"recipe.yaml, pool_reuse: has no effect without pool; wanted both or neither"),
    ],
)
def test_yaml_is_checked(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe([*yaml(tmp_path, text), *DATA])


def test_null_stands_for_nothing_where_nothing_is_the_default(tmp_path):
    assert read_recipe([*yaml(tmp_path, "frame_window: null"), *DATA]).frame_window is None


def test_missing_recipe():
    with pytest.raises(
        FileNotFoundError, match=r"config/train/debg.yaml: is not there; wanted a YAML file; did you mean 'config/train/debug.y"
    ):
        read_recipe(["--recipe", "config/train/debg.yaml"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"^--data_path: is missing; wanted a NAME_data_path.json, synthetic:objects"),
        ([*DATA, "--stepz", "5"], r"^--stepz: is unknown; wanted a known flag; did you mean '--steps'\?"),
        ([*DATA, "--stepz=5"], r"^--stepz=5: is unknown; wanted a known flag; did you mean '--steps'\?"),
        ([*DATA, "--step", "5"], r"^--step: is unknown"),
        ([*DATA, "--steps", "many"], r"^--steps: cannot be read \(invalid int value: 'many'\); wanted a whole number"),
        ([*DATA, "--precision", "half"], r"^--precision: cannot be read \(invalid choice: .*\); wanted auto, float32, bfloat16"),
        (
            [*DATA, "--image_size", "8"],
            r"^--image_size: cannot be read \(expected 2 arguments\); wanted two whole numbers, height and",
        ),
        ([*DATA, "--compile=yes"], r"^--compile: cannot be read \(ignored explicit argument 'yes'\); wanted true or false"),
        ([*DATA, "--recipe"], r"^--recipe: cannot be read \(expected one argument\); wanted a path"),
        ([*DATA, "--steps", "0"], r"^--steps: is 0; wanted 1 or more"),
        ([*DATA, "--grad_clip", "0"], r"^--grad_clip: is 0.0; wanted above 0"),
        ([*DATA, "--lr", "-1"], r"^--lr: is -1.0; wanted 0 or more"),
        ([*DATA, "--num_all_views", "7"], r"^--num_all_views: is 7; wanted 8 or more, as many as inputs or targets"),
        ([*DATA, "--num_input_views", "16"], r"^--num_all_views: is 15; wanted 16 or more, as many as inputs or targets"),
        (["--data_path", "a.json", "--frame_window", "9"], r"^--frame_window: is 9; wanted num_all_views, 15, or more"),
        (
            [*DATA, "--frame_window", "99"],
            r"^--frame_window: has no effect on synthetic:objects, which has no frames; wanted it left out",
        ),
        ([*DATA, "--context_parallel", "9"], r"^--context_parallel: is 9; wanted 8 or less: every process needs an input and a"),
        (
            [*DATA, "--context_parallel", "2", "--skip_broken", "1"],
            r"^--skip_broken: is 1; wanted 0 with context_parallel, where no",
        ),
        ([*DATA, "--min_input_views", "9"], r"^--min_input_views: is 9; wanted num_input_views, 8, or less"),
        ([*DATA, "--min_input_views", "0"], r"^--min_input_views: is 0; wanted 1 or more"),
        ([*DATA, "--steps", "4000"], r"^--warmup: is 4000 of 4000 steps; wanted fewer than steps"),
        ([*DATA, "--ema", "1"], r"^--ema: is 1.0; wanted less than 1"),
        ([*DATA, "--seed", "2147483648"], r"^--seed: is 2147483648; wanted 0 to 2147483647"),
        ([*DATA, "--expname", "a/b"], r"^--expname: is 'a/b'; wanted the name of a folder"),
        ([*DATA, "--expname", ".."], r"^--expname: is '..'; wanted the name of a folder"),
        ([*DATA, "--val_every", "5"], r"^--val_every: has no effect without val_data_path; wanted both or neither"),
        (
            [*DATA, "--val_data_path", "synthetic:objects:1"],
            r"^--val_data_path: is synthetic:objects:1 with num_all_views 15, so that .* wanted num_all_views of 16 or more",
        ),
        (
            ["--data_path", "a.json", "--pool", "9"],
            r"^--pool: has no effect on a.json; wanted synthetic:objects or synthetic:scenes",
        ),
        (["--data_path", "synthetic:objects:3", "--pool", "9"], r"^--pool: has no effect on synthetic:objects:3"),
        ([*DATA, "--pool_reuse", "9"], r"^--pool_reuse: has no effect without pool; wanted both or neither"),
        ([*DATA, "--compile_mode", "default"], r"^--compile_mode: has no effect without compile"),
        ([*DATA, "--cuda_graphs"], r"^--cuda_graphs: is set with schedule cosine; wanted schedule constant"),
        (
            [*DATA, "--cuda_graphs", "--schedule", "constant", "--grad_accum", "2"],
            r"^--cuda_graphs: is set with grad_accum 2; wanted grad_accum 1",
        ),
        ([*DATA, "--snapshot_total", "60M"], r"^--snapshot_total: has no effect without snapshot_parts"),
        ([*DATA, "--snapshot_parts", "15"], r"^--snapshot_parts: is '15'; wanted a whole number and K, M or G, such as 15M"),
        ([*DATA, "--snapshot_parts", "0M"], r"^--snapshot_parts: is '0M'; wanted a whole number and K, M or G"),
        ([*DATA, "--snapshot_parts", "61M"], r"^--snapshot_parts: is 61M; wanted snapshot_total, 60M, or less"),
    ],
)
def test_command_line_is_checked(argv, message):
    with pytest.raises(InputError, match=message):
        read_recipe(argv)


@pytest.mark.parametrize(("text", "expected"), [("900K", 900 * 1024), ("15M", 15 * 1024**2), ("2G", 2 * 1024**3)])
def test_sizes_are_in_powers_of_1024(text, expected):
    assert parse_size(text, "size") == expected


def test_recipe_survives_plain_values():
    recipe = TrainingRecipe(data_path="a.json", image_size=(8, 16), max_hours=1.5)
    assert recipe_from_dict(dataclasses.asdict(recipe), "x") == recipe
    with pytest.raises(InputError, match=r"^x, colour: is unknown; wanted a known key"):
        recipe_from_dict({"colour": 1}, "x")


def test_differences_leave_out_what_does_not_change_learning():
    old = TrainingRecipe(data_path="a.json", bs_per_gpu=2, grad_accum=3)
    free = dataclasses.replace(
        old, expname="b", save_every=1, device="cpu", compile=True, workers=9, max_hours=1.0, val_data_path="v.json"
    )
    assert differences(old, free) == []
    assert differences(old, dataclasses.replace(old, bs_per_gpu=1, grad_accum=2), (1, 3)) == []
    assert differences(old, dataclasses.replace(old, grad_accum=4), (1, 1)) == ["bs_per_gpu × grad_accum × processes 6 → 8"]
    pool = dataclasses.replace(old, pool=8)
    assert differences(pool, dataclasses.replace(pool, bs_per_gpu=1, grad_accum=6), (1, 1)) == []
    assert differences(pool, dataclasses.replace(pool, grad_accum=1), (1, 3)) == ["processes with a pool of scenes each 1 → 3"]
    changed = dataclasses.replace(old, data_path="b.json", seed=1)
    assert differences(old, changed) == ["data_path 'a.json' → 'b.json'", "seed 95 → 1"]
