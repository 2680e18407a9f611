"""Export of synthetic data to the unified format. Letters: h w pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import SceneDataset
from data.synthetic import synthetic_batch
from data_preprocess.synthetic_export import main
from tests.support.scenes import contents

SIZE = ("--image_size", "24", "40")


def test_objects_are_what_the_generator_makes_on_white(tmp_path):
    data_path = main(["--kind", "objects", "--count", "2", "--seed", "9", "--first_index", "4", "--num_views", "3", *SIZE,
                      "--output", str(tmp_path)])  # fmt: skip
    assert data_path == tmp_path / "objects_data_path.json"
    dataset = SceneDataset(data_path, (24, 40))
    expected = synthetic_batch("objects", 9, [4, 5], 3, (24, 40), samples=16)
    for i in range(2):
        scene = dataset[i]
        assert scene.name == f"objects_9_{4 + i:06d}"
        loaded = dataset.load(scene, range(3))
        # One rounding of colour, one of alpha and one of both laid on white: half a step each at most, the last a whole one. A
        # batch may round a ray at a border to its other side.
        assert ((loaded["image"] - expected["image"][i]).abs() > 2 / 255).float().mean() < 2e-3
        assert torch.allclose(loaded["c2w"], expected["c2w"][i], atol=1e-6)
        assert torch.allclose(loaded["fxfycxcy"], expected["fxfycxcy"][i])
    with Image.open(tmp_path / "objects_9_000004" / "images" / "00000.png") as image:
        assert image.mode == "RGBA"
        alpha = np.asarray(image)[..., 3] / 255
    assert np.abs(alpha - expected["alpha"][0, 0, 0].numpy()).max() < 1 / 255


def test_scenes_are_written_without_alpha(tmp_path):
    data_path = main(["--kind", "scenes", "--num_views", "2", *SIZE, "--output", str(tmp_path), "--name", "walk"])
    assert data_path.name == "walk_data_path.json"
    with Image.open(tmp_path / "scenes_0_000000" / "images" / "00001.png") as image:
        assert (image.mode, image.size) == ("RGB", (40, 24))


@pytest.mark.slow
def test_repeating_gives_the_same_bytes_and_workers_do_not_matter(tmp_path):
    flags = ["--kind", "objects", "--count", "2", "--num_views", "2", *SIZE, "--layout", "rings"]
    main([*flags, "--output", str(tmp_path / "a")])
    main([*flags, "--output", str(tmp_path / "b"), "--workers", "2"])
    assert len(contents(tmp_path / "a")) == 7
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_finished_stays_and_what_is_missing_is_made_again(tmp_path):
    flags = ["--kind", "objects", "--count", "2", "--num_views", "2", *SIZE, "--output", str(tmp_path)]
    main(flags)
    before = contents(tmp_path)
    kept = tmp_path / "objects_0_000000" / "images" / "00001.png"
    Image.new("RGBA", (40, 24)).save(kept)
    (tmp_path / "objects_0_000001" / "images" / "00000.png").unlink()
    (tmp_path / "objects_0_000001" / "opencv_cameras.json").unlink()
    main(flags)
    after = contents(tmp_path)
    assert after.pop(kept.relative_to(tmp_path)) != before.pop(kept.relative_to(tmp_path))
    assert after == before


def test_other_flags_do_not_pass_for_the_same_scene(tmp_path):
    flags = ["--kind", "objects", *SIZE, "--output", str(tmp_path)]
    main([*flags, "--num_views", "2"])
    with pytest.raises(ValueError, match=r"objects_0_000000/opencv_cameras.json: found a scene with other views"):
        main([*flags, "--num_views", "3"])
    with pytest.raises(ValueError, match="found a scene with other views"):
        main(["--kind", "objects", "--image_size", "24", "32", "--output", str(tmp_path), "--num_views", "2"])


@pytest.mark.parametrize(("flag", "value"), [("--count", "0"), ("--workers", "-1"), ("--num_views", "0"), ("--seed", "-2")])
def test_numbers_out_of_range_are_refused(tmp_path, flag, value):
    with pytest.raises(ValueError, match=f": is {value}; wanted . or more"):
        main(["--kind", "objects", "--output", str(tmp_path), flag, value])
    with pytest.raises(ValueError, match="--image_size: found 0, wanted 1 or more"):
        main(["--kind", "objects", "--output", str(tmp_path), "--image_size", "0", "8"])


def test_chosen_indices_are_written_in_their_order(tmp_path):
    flags = ["--kind", "objects", "--num_views", "1", *SIZE, "--output", str(tmp_path)]
    dataset = SceneDataset(main([*flags, "--indices", "7", "2"]), (24, 40))
    assert [dataset[i].name for i in range(len(dataset))] == ["objects_0_000007", "objects_0_000002"]
    with pytest.raises(ValueError, match="--indices: found 7 2 7, wanted each index once"):
        main([*flags, "--indices", "7", "2", "7"])
    with pytest.raises(ValueError, match="--indices: found --count or --first_index beside it"):
        main([*flags, "--indices", "7", "--count", "2"])
