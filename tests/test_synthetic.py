"""Synthetic batches: the same scene on every machine, cameras as documented, images worth training on.

Letters: b scenes, v views, h w pixels.
"""

import numpy as np
import pytest
import torch

from config.errors import InputError
from data.synthetic import KINDS, describe, synthetic_batch
from data.synthetic.cameras import LAYOUTS, RING_ELEVATIONS_DEG
from data.synthetic.objects import HALF_EXTENT, MOST_SOLIDS, bounding_box, random_object
from data.synthetic.primitives import CONVEX
from data.synthetic.render import render
from data.synthetic.tables import pack
from data.synthetic.textures import PATTERNS, noise, weights

SIZE = (24, 40)


def numbers(value):
    """Return every number in a description, depth first."""
    if isinstance(value, str):
        return [float(sum(value.encode()))]
    if value is None or isinstance(value, (bool, int, float, np.generic)):
        return [float(value or 0)]
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in numbers(item)]
    return [number for item in vars(value).values() for number in numbers(item)]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_has_the_promised_shapes_and_ranges(kind):
    batch = synthetic_batch(kind, 2, [3, 0], 3, SIZE)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image": (2, 3, 3, 24, 40),
        "alpha": (2, 3, 1, 24, 40),
        "fxfycxcy": (2, 3, 4),
        "c2w": (2, 3, 4, 4),
    }
    assert all(value.dtype == torch.float32 for value in batch.values())
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["alpha"].min() >= 0
    assert batch["alpha"].max() <= 1
    rotation = batch["c2w"][..., :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.linalg.det(rotation).min() > 0.99
    # World up is on the upper side of every image.
    assert (batch["c2w"][..., 2, 1] < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_does_not_depend_on_the_others_in_its_batch(kind):
    alone = synthetic_batch(kind, 2, [5], 2, SIZE)
    amid = synthetic_batch(kind, 2, [11, 5, 8], 2, SIZE)
    for name in ("c2w", "fxfycxcy"):
        assert torch.equal(alone[name][0], amid[name][1])
    # Sums over other shapes may round differently, and a ray at a border fall to its other side.
    error = (alone["image"][0] - amid["image"][1]).abs()
    assert (error > 1e-4).float().mean() < 2e-3
    assert torch.equal(synthetic_batch(kind, 2, [5], 2, SIZE)["image"], alone["image"])
    assert (alone["image"][0] - amid["image"][0]).abs().mean() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_description_does_not_depend_on_the_number_of_views_or_on_other_generators(kind):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    first, *_ = describe(kind, 7, 1, 2, SIZE)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    second, *_ = describe(kind, 7, 1, 9, (32, 16))
    assert len(numbers(first)) > 50
    assert numbers(first) == numbers(second)
    assert numbers(describe(kind, 7, 2, 2, SIZE)[0]) != numbers(first)
    assert numbers(describe(kind, 8, 1, 2, SIZE)[0]) != numbers(first)


def test_objects_are_centred_of_the_promised_size_and_mixed():
    objects = [random_object(0, i) for i in range(150)]
    for scene in objects:
        low, high = bounding_box(scene.solids)
        assert np.abs(low + high).max() < 1e-9
        assert HALF_EXTENT[0] - 1e-9 <= (high - low).max() / 2 <= HALF_EXTENT[1] + 1e-9
        assert 1 <= len(scene.solids) <= MOST_SOLIDS
    kinds = {solid.kind for scene in objects for solid in scene.solids}
    assert len(kinds) == 10
    assert kinds.issuperset(CONVEX)
    assert {solid.material.pattern.kind for scene in objects for solid in scene.solids} == set(PATTERNS)
    assert any(solid.cut for scene in objects for solid in scene.solids)


def test_bounding_box_holds_what_is_seen():
    """Points from depth are inside the box and span at least half of it: a box twice too large would fail."""
    for index in range(12):
        scene, c2w, camera = describe("objects", 4, index, 12, (32, 32), "sphere")
        c2w, camera = torch.from_numpy(c2w), torch.from_numpy(camera)
        depth = render(pack([scene], torch.float64), c2w[None], camera[None], (32, 32), samples=1)["depth"][0, :, 0]
        y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
        camera = camera[..., None, None]
        ray = torch.stack([(x - camera[:, 2]) / camera[:, 0], (y - camera[:, 3]) / camera[:, 1], torch.ones_like(depth)], 1)
        point = torch.einsum("vij,vjhw->vihw", c2w[:, :3, :3], ray * depth[:, None]) + c2w[:, :3, 3, None, None]
        point = point.transpose(0, 1)[:, depth.isfinite()]
        low, high = bounding_box(scene.solids)
        assert (point.amin(1).numpy() >= low - 2e-3).all()
        assert (point.amax(1).numpy() <= high + 2e-3).all()
        assert (point.amax(1) - point.amin(1)).max() > 0.5 * (high - low).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_object_cameras_look_at_the_object_from_outside(layout):
    for index in range(20):
        _, c2w, camera = describe("objects", 0, index, 10, SIZE, layout)
        radius = np.linalg.norm(c2w[:, :3, 3], axis=1)
        # Half-extents below 0.95 leave the object's corners within 0.95 √3 = 1.646.
        assert radius.min() > 1.65
        direction = -c2w[:, :3, 3] / radius[:, None]
        assert (np.einsum("vi,vi->v", direction, c2w[:, :3, 2]) > np.cos(np.radians(12))).all()
        fov = 2 * np.degrees(np.arctan(min(SIZE) / 2 / camera[:, 0]))
        assert (fov > 34.9).all()
        assert (fov < 60.1).all()
        assert np.array_equal(camera[:, 0], camera[:, 1])
        assert (camera[:, 2:] == (20, 12)).all()


def test_rings_are_even_and_at_their_elevations():
    _, c2w, _ = describe("objects", 0, 0, 48, SIZE, "rings")
    x, y, z = c2w[:, :3, 3].T
    elevation = np.degrees(np.arcsin(z / np.linalg.norm(c2w[:, :3, 3], axis=1)))
    assert elevation == pytest.approx(np.repeat(RING_ELEVATIONS_DEG, 12), abs=1e-9)
    step = np.diff(np.unwrap(np.arctan2(y, x)).reshape(4, 12), axis=1)
    assert step == pytest.approx(2 * np.pi / 12, abs=1e-9)


def test_objects_are_neither_empty_nor_dark():
    batch = synthetic_batch("objects", 6, range(48), 3, (32, 32), samples=1)
    covered = batch["alpha"].mean((1, 2, 3, 4))
    assert covered.min() > 0.005
    assert 0.15 < covered.median() < 0.6
    inside = batch["alpha"] > 0.5
    brightness = torch.stack([image.mean(1, keepdim=True)[seen].mean() for image, seen in zip(batch["image"], inside, strict=True)])
    assert brightness.min() > 0.06
    assert 0.3 < brightness.median() < 0.7


def test_scenes_are_neither_empty_nor_dark_and_their_walk_is_smooth():
    batch = synthetic_batch("scenes", 6, range(12), 24, (16, 24), samples=1)
    image = batch["image"]
    assert image.mean((1, 2, 3, 4)).min() > 0.12
    assert image.flatten(2).std(2).mean(1).min() > 0.03
    # From one view to the next a camera turns and moves much less than over the whole walk.
    position = batch["c2w"][..., :3, 3]
    step = (position[:, 1:] - position[:, :-1]).norm(dim=2)
    assert (step.amax(1) < 4 * step.mean(1)).all()
    assert (step.mean(1) > 0.01).all()
    turn = (batch["c2w"][:, 1:, :3, 2] * batch["c2w"][:, :-1, :3, 2]).sum(2)
    # 300 degrees in 23 steps are 13 per step; with the bends of the track and the sway no step turns by 45.
    assert turn.min() > 0.7


def test_every_pattern_varies_in_its_range():
    place = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * 10
    for i, kind in enumerate(PATTERNS):
        pattern = torch.full((4000,), i)
        numbers_ = torch.full((4000, 6), 0.2)
        first, second = weights([kind], pattern, place, (place[0], place[1]), numbers_)
        for weight in (first, second):
            assert weight.min() >= 0
            assert weight.max() <= 1
        assert kind == "plain" or first.std() > 0.05


def test_noise_is_smooth_periodic_and_fills_its_range():
    place = torch.rand(3, 3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 60 - 30
    value = noise(place)
    assert value.abs().max() <= 1
    assert value.std() > 0.2
    assert torch.allclose(noise(place + 32), value, atol=1e-9)
    # Between values in -1..1 a smooth step rises by 2 · 1.5 a unit at most, along each axis.
    assert (noise(place + 1e-3) - value).abs().max() < 3 * 3e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("object", 0, [0], 1), "synthetic data: the kind is 'object'; wanted one of objects, scenes"),
        (("objects", 0, [], 1), "synthetic_batch: no index; wanted at least one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_batch(*arguments, SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("objects", -1, [0], 1), "--seed: is -1; wanted 0 or more"),
        (("objects", 0, [-3], 1), "index: is -3; wanted 0 or more"),
        (("objects", 0, [0], 0), "--num_views: is 0; wanted 1 or more"),
    ],
)
def test_numbers_below_their_least_are_told_to_the_user(arguments, message):
    with pytest.raises(InputError, match=message):
        synthetic_batch(*arguments, SIZE)


def test_layouts_are_for_objects():
    with pytest.raises(InputError, match="--layout: is rings for scenes; wanted none"):
        describe("scenes", 0, 0, 2, SIZE, "rings")
    with pytest.raises(ValueError, match="layout is 'ring'; wanted one of sphere, rings, orbit"):
        describe("objects", 0, 0, 2, SIZE, "ring")


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_agrees_with_the_cpu(kind, device):
    here, there = (synthetic_batch(kind, 3, range(6), 4, SIZE, place) for place in ("cpu", device))
    assert torch.equal(here["c2w"], there["c2w"].cpu())
    # Colours to rounding; a pixel differs by a sample, a quarter of it, where a ray grazes an edge.
    differs = (here["image"] - there["image"].cpu()).abs().amax(2) > 2e-3
    assert differs.float().mean() < 1e-3
