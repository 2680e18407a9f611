"""Renders of synthetic scenes: against geometry derived by hand, and against themselves in float64.

Letters: v views, h w pixels, k points.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from config.errors import InputError
from data.synthetic import render as render_module
from data.synthetic.batch import describe
from data.synthetic.materials import random_material
from data.synthetic.primitives import (
    CONVEX,
    KINDS,
    SHAPE_NUMBERS,
    WITH_DISTANCE,
    bounding_axes,
    first_hit,
    interval,
    march,
    normal,
    signed_distance,
)
from data.synthetic.render import render
from data.synthetic.tables import Cut, Description, Light, Material, Pattern, Sky, Solid, pack
from tests.support.scenes import look_at

SHAPES = {
    "cone": (0.3,),
    "capsule": (0.35,),
    "torus": (0.25,),
    "frame": (0.2,),
    "round_box": (0.3,),
    "blob": (0.1, 3.0, 5.0, 4.0, 0.4, 1.0, 2.0),
    "metaballs": (0.4, 0.1, 0.0, 0.5, -0.3, 0.3, 0.1, 0.4, 0.0, -0.4, -0.2, 0.5),
}


def plain(colour=(0.25, 0.5, 0.125)):
    return Material(np.tile(colour, (4, 1)), Pattern("plain", (), np.eye(3), np.ones(3), np.zeros(3)))


def ambient_only(**changes):
    light = Light(np.zeros(3), np.full((3, 3), 10.0), np.zeros((3, 3)), 1.0, np.ones(3), np.ones(3), 0.0, 0.3)
    return dataclasses.replace(light, **changes)


def scene_of(*solids, light=None, sky=None):
    return Description(solids, light or ambient_only(), sky or Sky())


def affine(linear, offset=(0, 0, 0)):
    return np.concatenate([np.asarray(linear, dtype=np.float64), np.asarray(offset, dtype=np.float64)[:, None]], axis=1)


def random_pose(seed, size=0.5):
    rng = np.random.default_rng(seed)
    return affine(rng.normal(size=(3, 3)) * size * 0.5 + np.eye(3) * size, rng.normal(size=3) * 0.2)


def view(description, position, size=(40, 56), focal=60.0, target=(0, 0, 0), dtype=torch.float64, **options):
    """Render one view; the principal point is off the centre. Returns images without their first two axes, c2w, fxfycxcy."""
    c2w = torch.from_numpy(look_at(np.array(position, dtype=np.float64), target))
    fxfycxcy = torch.tensor([focal, focal * 1.1, size[1] / 2 + 1.5, size[0] / 2 - 2.0], dtype=torch.float64)
    result = render(pack([description], dtype), c2w[None, None], fxfycxcy[None, None], size, **options)
    return {name: value[0, 0] for name, value in result.items()}, c2w, fxfycxcy


def pixel_rays(c2w, fxfycxcy, size):
    """Return directions (3, h, w) of depth 1 through the centres of pixels."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    fx, fy, cx, cy = fxfycxcy
    camera = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)]).double()
    return torch.einsum("ij,jhw->ihw", c2w[:3, :3], camera)


def lines(k, seed=0):
    """Return random lines of float64: base points nearest to the origin, within the unit ball's reach, and directions."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(3, k, generator=generator, dtype=torch.float64), dim=0)
    point = 0.6 * torch.randn(3, k, generator=generator, dtype=torch.float64)
    return point - (point * direction).sum(0) * direction, direction


def numbers(kind, k):
    return torch.tensor(SHAPES.get(kind, ()), dtype=torch.float64)[:, None].expand(-1, k)


INSIDE = {
    "ellipsoid": lambda x, y, z: x * x + y * y + z * z < 1,
    "box": lambda x, y, z: (abs(x) < 1) & (abs(y) < 1) & (abs(z) < 1),
    "cylinder": lambda x, y, z: (x * x + y * y < 1) & (abs(z) < 1),
    "cone": lambda x, y, z: ((x * x + y * y) ** 0.5 < 0.65 - 0.35 * z) & (abs(z) < 1),
    "capsule": lambda x, y, z: x * x + y * y + (z - z.clip(-0.65, 0.65)) ** 2 < 0.35**2,
    "torus": lambda x, y, z: ((x * x + y * y) ** 0.5 - 0.75) ** 2 + z * z < 0.25**2,
    "frame": lambda x, y, z: (
        (np.stack([abs(x), abs(y), abs(z)]).max(0) < 1) & ((np.stack([abs(x), abs(y), abs(z)]) > 0.8).sum(0) >= 2)
    ),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_ray_meets_solid_where_steps_along_it_do(kind):
    base, direction = lines(300)
    steps = np.linspace(-1.8, 1.8, 3601)
    places = base.numpy()[..., None] + direction.numpy()[..., None] * steps
    inside = INSIDE[kind](*places)
    # Shorter chords fall between the steps.
    met = inside.sum(1) >= 3
    enter_by_steps = steps[inside.argmax(1)]
    if kind in CONVEX:
        enter, leave = interval(kind, base, direction, numbers(kind, 300))
        hit = (leave > enter).numpy()
        leave_by_steps = steps[3600 - inside[:, ::-1].argmax(1)]
        assert np.abs(leave.numpy() - leave_by_steps)[met].max() < 2e-3  # a step is 1e-3
    else:
        enter = first_hit(kind, base, direction, numbers(kind, 300), torch.full((300,), -10.0, dtype=torch.float64))
        hit = enter.isfinite().numpy()
    assert met.sum() > 50
    assert hit[met].all()
    assert not hit[inside.sum(1) == 0].any() or (leave - enter)[hit & (inside.sum(1) == 0)].max() < 1e-2
    assert np.abs(enter.numpy() - enter_by_steps)[met].max() < 2e-3


@pytest.mark.parametrize("kind", [k for k in WITH_DISTANCE if k not in CONVEX])
def test_march_ends_on_the_surface(kind):
    base, direction = lines(400, seed=1)
    found = march(kind, base, direction, numbers(kind, 400), torch.full((400,), -5.0, dtype=torch.float64))
    hit = found.isfinite()
    assert hit.sum() > 40
    distance = signed_distance(kind, (base + found * direction)[:, hit], numbers(kind, 400)[:, hit])
    assert distance.abs().max() < 1e-3  # five times the distance that counts as a hit
    nearest = first_hit(kind, base, direction, numbers(kind, 400), torch.full((400,), -5.0, dtype=torch.float64))
    assert (nearest - found)[hit].abs().quantile(0.95) < 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_solid_lies_in_its_bounding_ellipsoid(kind):
    base, direction = lines(2000, seed=2)
    axes = torch.tensor(bounding_axes(kind, SHAPES.get(kind, ())), dtype=torch.float64)[:, None]
    if kind in CONVEX:
        enter, leave = interval(kind, base, direction, numbers(kind, 2000))
        hit = enter < leave
    else:
        enter = first_hit(kind, base, direction, numbers(kind, 2000), torch.full((2000,), -5.0, dtype=torch.float64))
        hit = enter.isfinite()
    place = (base + enter * direction)[:, hit] / axes
    assert place.square().sum(0).max() < 1 + 1e-3
    # An ellipsoid that is far too large would pass the line above.
    assert place.square().sum(0).max() > 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_normal_agrees_with_finite_differences_of_depth(kind):
    """The depth of two more rays, turned by 1e-5, gives two tangents; their cross product is the normal."""
    description = scene_of(Solid(kind, random_pose(3), plain(), SHAPES.get(kind, ())))
    size, step = (40, 56), 1e-5
    depths, points = [], []
    for dx, dy in ((0, 0), (step, 0), (0, step)):
        c2w = torch.from_numpy(look_at(np.array((1.2, -1.9, 1.1))))
        camera = torch.tensor([60.0, 66.0, 28.0 - 60 * dx, 20.0 - 66 * dy], dtype=torch.float64)
        depth = render(pack([description], torch.float64), c2w[None, None], camera[None, None], size, samples=1)["depth"][0, 0, 0]
        depths.append(depth)
        points.append(c2w[:3, 3, None, None] + depth * pixel_rays(c2w, camera, size))
    finite = torch.linalg.cross(points[2] - points[0], points[1] - points[0], dim=0)
    finite = torch.nn.functional.normalize(finite, dim=0)
    seen = depths[0].isfinite()
    solid = pack([description], torch.float64).solids
    local = torch.einsum("ij,jk->ik", solid.local_from_world[0, :, :3], points[0][:, seen]) + solid.local_from_world[0, :, 3:]
    shape = solid.shape[0, : SHAPE_NUMBERS[kind], None].expand(-1, local.shape[1])
    analytic = torch.einsum("ji,jk->ik", solid.local_from_world[0, :, :3], normal(kind, local, shape))
    analytic = torch.nn.functional.normalize(analytic, dim=0)
    agreement = (analytic * finite[:, seen]).sum(0)
    assert seen.sum() > 60
    # Marched surfaces are found to 2e-4 only, which blurs tangents of 1e-5: there only analytic kinds are compared closely.
    if kind in (*CONVEX, "frame"):
        assert (agreement > 1 - 1e-4).double().mean() > 0.95  # the rest has an edge between its three rays
    towards = (analytic * (points[0][:, seen] - c2w[:3, 3, None])).sum(0)
    assert (towards < 1e-6).double().mean() > 0.99


def test_march_normals_agree_with_finite_differences_of_distance():
    for kind in ("torus", "round_box", "blob", "metaballs"):
        base, direction = lines(200, seed=4)
        found = march(kind, base, direction, numbers(kind, 200), torch.full((200,), -5.0, dtype=torch.float64))
        place = (base + found * direction)[:, found.isfinite()].requires_grad_()
        signed_distance(kind, place, numbers(kind, place.shape[1])).sum().backward()
        exact = torch.nn.functional.normalize(place.grad, dim=0)
        ours = torch.nn.functional.normalize(normal(kind, place.detach(), numbers(kind, place.shape[1])), dim=0)
        assert ((exact * ours).sum(0) > 1 - 1e-4).double().mean() > 0.98  # the rest straddles a crease


def test_sphere_has_the_silhouette_of_its_tangent_cone():
    radius, centre, position = 0.4, np.array((0.1, -0.2, 0.15)), np.array((1.9, 1.2, 0.8))
    description = scene_of(Solid("ellipsoid", affine(np.eye(3) * radius, centre), plain()))
    images, c2w, camera = view(description, position, samples=1)
    ray = torch.nn.functional.normalize(pixel_rays(c2w, camera, (40, 56)), dim=0)
    axis = torch.from_numpy((centre - position) / np.linalg.norm(centre - position))
    angle = torch.acos(torch.einsum("i,ihw->hw", axis, ray))
    expected = angle < math.asin(radius / np.linalg.norm(centre - position))
    assert expected.sum() > 100
    assert torch.equal(images["alpha"][0] > 0, expected)


def test_alpha_is_the_share_of_a_pixel_that_a_sphere_covers():
    radius, distance, focal, size = 0.5, 3.0, 60.0, (40, 56)
    description = scene_of(Solid("ellipsoid", affine(np.eye(3) * radius), plain()))
    c2w = torch.from_numpy(look_at(np.array((distance, 0, 0))))
    camera = torch.tensor([focal, focal, 28.0, 20.0], dtype=torch.float64)
    alpha = render(pack([description], torch.float64), c2w[None, None], camera[None, None], size, samples=16)["alpha"]
    # Seen centrally a sphere is a disc of radius focal · tan(asin(r/d)).
    area = math.pi * (focal * math.tan(math.asin(radius / distance))) ** 2
    assert alpha.sum().item() == pytest.approx(area, rel=2e-3)  # 60 border pixels, each to 1/16: 0.0035 of 323 at random
    assert ((alpha > 0) & (alpha < 1)).sum() > 40


def test_corners_of_a_box_are_where_the_camera_puts_them():
    pose = affine(np.array([[0.5, 0.1, 0], [-0.1, 0.35, 0.05], [0, -0.05, 0.3]]), (0.05, 0.1, -0.1))
    images, c2w, camera = view(scene_of(Solid("box", pose, plain())), (2.0, -1.4, 1.2), samples=1)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    world = corners @ pose[:, :3].T + pose[:, 3]
    local = np.linalg.inv(c2w.numpy()) @ np.concatenate([world, np.ones((8, 1))], axis=1).T
    x = local[0] / local[2] * camera[0].item() + camera[2].item()
    y = local[1] / local[2] * camera[1].item() + camera[3].item()
    rows, columns = np.nonzero(images["alpha"][0].numpy())
    # The outermost pixel centres lie inside the outermost corners, by no more than a pixel along a slanted edge.
    for low, high, seen in ((x.min(), x.max(), columns + 0.5), (y.min(), y.max(), rows + 0.5)):
        assert low <= seen.min() <= low + 2
        assert high - 2 <= seen.max() <= high


def test_cut_takes_away_and_intersection_keeps():
    ball, half = affine(np.eye(3)), affine(np.diag((2.0, 2.0, 2.0)), (0, 0, 2.0))
    from_above = np.array((0.01, 0.0, 4.0))
    for keeps, expected in ((False, 4.0), (True, 3.0)):
        cut = Cut("box", half, (), keeps)
        images, _, _ = view(scene_of(Solid("ellipsoid", ball, plain(), (), cut)), from_above, samples=1, target=(0.0, 0, 0))
        depth = images["depth"][0]
        # The upper half gone, the flat face is at z = 0, 4 below the camera; else the pole at z = 1 is 3 below.
        assert depth[18, 29].item() == pytest.approx(expected, abs=0.01)
        below, _, _ = view(scene_of(Solid("ellipsoid", ball, plain(), (), cut)), -from_above, samples=1)
        assert below["depth"][0][18, 29].item() == pytest.approx(7.0 - expected, abs=0.01)


def test_nearer_solid_hides_the_farther():
    near = Solid("box", affine(np.eye(3) * 0.2, (1.0, 0, 0)), plain((0.9, 0.01, 0.01)))
    far = Solid("ellipsoid", affine(np.eye(3) * 0.2, (-1.0, 0, 0)), plain((0.01, 0.01, 0.9)))
    front, _, _ = view(scene_of(near, far), (4, 0.001, 0), samples=1)
    back, _, _ = view(scene_of(near, far), (-4, 0.001, 0), samples=1)
    assert front["image"][0, 18, 29] > 0.9 > 0.2 > front["image"][2, 18, 29]
    assert back["image"][2, 18, 29] > 0.9 > 0.2 > back["image"][0, 18, 29]


def test_of_two_surfaces_at_one_place_each_ray_meets_one(monkeypatch):
    red, blue = plain((0.9, 0.01, 0.01)), plain((0.01, 0.01, 0.9))
    one, other = (Solid("ellipsoid", affine(np.eye(3) * 0.5), material) for material in (red, blue))
    found = []
    nearest = render_module.nearest
    monkeypatch.setattr(render_module, "nearest", lambda *args: found.append(nearest(*args)) or found[-1])
    both, _, _ = view(scene_of(one, other), (2, 1, 1), samples=4)
    alone, _, _ = view(scene_of(other), (2, 1, 1), samples=4)
    for hits in found:
        assert len(hits.ray.unique()) == len(hits.ray) > 0
    assert torch.equal(both["image"], alone["image"])


def test_lambert_ambient_and_display_colours_by_hand():
    lamp = np.array([[0, 0, 50.0], [1, 0, 0], [1, 0, 0]])
    light = ambient_only(position=lamp, colour=np.array([[0.4] * 3, [0] * 3, [0] * 3]), radius=0.0, above=np.full(3, 0.3))
    top = Solid("box", affine(np.eye(3) * 0.5), plain((0.5, 0.25, 1.0)))
    images, _, _ = view(scene_of(top, light=light), (0.01, 0.0, 4.0))
    # Straight below the lamp: 0.4 direct, 0.3 from above, colour 0.5 / 0.25 / 1, square root for display.
    expected = np.sqrt(0.7 * np.array([0.5, 0.25, 1.0]))
    assert images["image"][:, 18, 29].numpy() == pytest.approx(expected, abs=2e-3)
    # The face that a cut leaves looks up just so, whether what is above it was taken or what is below was kept.
    for keeps, height in ((False, 2.0), (True, -2.0)):
        cut = Cut("box", affine(np.eye(3) * 2, (0, 0, height)), (), keeps)
        images, _, _ = view(scene_of(dataclasses.replace(top, cut=cut), light=light), (0.01, 0.0, 4.0))
        assert images["depth"][0, 18, 29].item() == pytest.approx(4.0, abs=0.01)
        assert images["image"][:, 18, 29].numpy() == pytest.approx(expected, abs=2e-3)


def test_shadow_falls_where_the_line_to_the_lamp_is_blocked():
    lamp = np.array([[0, 0, 50.0], [1, 0, 0], [1, 0, 0]])
    light = ambient_only(position=lamp, colour=np.array([[0.5] * 3, [0] * 3, [0] * 3]), radius=0.0, above=np.full(3, 0.2))
    floor = Solid("box", affine(np.diag((1.5, 1.5, 0.1)), (0, 0, -0.1)), plain((1.0, 1.0, 1.0)))
    for kind in ("box", "torus"):
        roof = Solid(kind, affine(np.eye(3) * 0.3, (0, 0, 1.0)), plain((0.0, 0.0, 0.0)), SHAPES.get(kind, ()))
        images, c2w, camera = view(scene_of(floor, roof, light=light), (2.4, 0.2, 1.4), size=(80, 104), samples=1)
        point = c2w[:3, 3, None, None] + images["depth"] * pixel_rays(c2w, camera, (80, 104))
        on_floor = point[2].abs() < 1e-6
        across = 50 / (50 - (0.7 if kind == "box" else 1.0))
        reach = point[:2].abs().amax(0) / across if kind == "box" else point[:2].square().sum(0).sqrt() / across
        dark = reach < 0.3 if kind == "box" else (reach > 0.15) & (reach < 0.3)
        edge = ((reach - 0.3).abs() < 0.02) | ((reach - 0.15).abs() < 0.02)
        shade = images["image"][0]
        assert (dark & on_floor & ~edge).sum() > 40
        assert shade[dark & on_floor & ~edge].numpy() == pytest.approx(math.sqrt(0.2), abs=1e-3)
        assert shade[~dark & on_floor & ~edge].min() > math.sqrt(0.5)


def test_occlusion_darkens_a_corner_and_leaves_an_open_plane():
    light = ambient_only(occlusion=1.0)
    floor = Solid("box", affine(np.diag((1.5, 1.5, 0.1)), (0, 0, -0.1)), plain((0.8, 0.8, 0.8)))
    wall = Solid("box", affine(np.diag((0.1, 1.5, 1.5)), (-0.6, 0, 0)), plain((0.8, 0.8, 0.8)))
    # The sky's points stand in for all of it: averaged over samples, an open plane gets exactly its light.
    alone, _, _ = view(scene_of(floor, light=light), (2.0, 0.3, 2.5))
    both, c2w, camera = view(scene_of(floor, wall, light=light), (2.0, 0.3, 2.5))
    full = alone["alpha"][0] == 1
    assert alone["image"][0][full].square().mean().item() == pytest.approx(0.8, rel=0.08)
    point = c2w[:3, 3, None, None] + both["depth"] * pixel_rays(c2w, camera, (40, 56))
    near_wall = (point[2].abs() < 0.02) & (point[0] < -0.3)
    far_away = (point[2].abs() < 0.02) & (point[0] > 0.9)
    assert near_wall.sum() > 5
    assert far_away.sum() > 5
    assert both["image"][0][near_wall].mean() < 0.9 * both["image"][0][far_away].mean()


@pytest.mark.parametrize("kind", ["clouds", "wood", "bricks", "glyphs", "spots", "patches"])
def test_a_point_has_one_colour_from_all_sides(kind):
    """In even light, the colour at a point seen by one camera is what another sees where that point projects."""
    rng = np.random.default_rng(7)
    material = random_material(rng, np.linspace(0.1, 0.9, 18).reshape(6, 3), 1.0, kind)
    description = scene_of(
        Solid("box", random_pose(5, 0.6), material), Solid("torus", random_pose(6, 0.5), material, SHAPES["torus"])
    )
    size = (96, 112)
    options = {"size": size, "focal": 120.0, "samples": 1}
    first, c2w, camera = view(description, (2.2, 0.9, 1.0), **options)
    second, other_c2w, other_camera = view(description, (2.0, 1.4, 0.7), **options)
    point = c2w[:3, 3, None, None] + first["depth"] * pixel_rays(c2w, camera, size)
    seen = first["depth"][0].isfinite()
    local = other_c2w[:3, :3].T @ (point[:, seen] - other_c2w[:3, 3:])
    x, y = (local[i] / local[2] * other_camera[i] + other_camera[2 + i] for i in range(2))
    column, row = x.floor().long(), y.floor().long()
    inside = (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    column, row, expected = column[inside], row[inside], first["image"][:, seen][:, inside]
    visible = (second["depth"][0, row, column] - local[2, inside]).abs() < 0.01
    found = second["image"][:, row, column]
    error = (found - expected)[:, visible].abs().amax(0)
    assert visible.sum() > 500
    # Pixels are half a pixel off, which counts at the borders of a pattern; wrong texturing gives a median of 0.1 and more.
    assert error.median() < 0.02
    contrast = expected[:, visible].std(1).mean()
    assert contrast > 0.02


def test_float32_agrees_with_float64():
    for index in range(4):
        description, c2w, camera = describe("objects", 3, index, 2, (40, 56))
        c2w, camera = torch.from_numpy(c2w)[None], torch.from_numpy(camera)[None]
        single = render(pack([description]), c2w, camera, (40, 56))
        double = render(pack([description], torch.float64), c2w, camera, (40, 56))
        assert single["image"].dtype == torch.float32
        error = (single["image"] - double["image"]).abs().amax(2)
        # Rays at the very border of something may fall to the other side: one sample of four, in a few pixels.
        assert (error > 2e-3).double().mean() < 0.01
        assert (single["alpha"] != double["alpha"]).double().mean() < 2e-3


def test_sky_fills_what_is_empty_and_is_no_solid():
    sky = Sky(False, np.array((0.49, 0.49, 0.49)), np.array((0.09, 0.25, 0.64)), 0.0)
    ball = Solid("ellipsoid", affine(np.eye(3) * 0.2), plain())
    images, _, _ = view(scene_of(ball, sky=sky), (3.0, 0.1, 0.1), target=(3.0, 0.1001, 5.0))
    assert images["alpha"].max() == 0
    assert images["image"][:, 18, 29].numpy() == pytest.approx((0.3, 0.5, 0.8), abs=0.02)


def test_any_image_size_and_any_chunk_give_the_same_pixels(monkeypatch):
    description = scene_of(Solid("torus", random_pose(8), plain(), SHAPES["torus"]))
    whole, _, _ = view(description, (1.9, 0.4, 0.9), size=(27, 37))
    monkeypatch.setitem(render_module.RAYS_AT_ONCE, "cpu", 300)
    parts, _, _ = view(description, (1.9, 0.4, 0.9), size=(27, 37))
    assert whole["image"].shape == (3, 27, 37)
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-9)


@pytest.mark.parametrize("samples", [6, 0, -4])
def test_samples_not_a_power_of_two_are_refused(samples):
    with pytest.raises(InputError, match=f"--samples: is {samples}; wanted a power of two"):
        view(scene_of(Solid("box", affine(np.eye(3)), plain())), (3, 0, 0.5), samples=samples)
