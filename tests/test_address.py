"""Addresses: places against projected points, rotations against complex numbers, the rotated write against autograd.

Letters: b scenes, v views, h w pixels, p patch side, t tokens of a view, l = v·t, n heads, k head width.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from config import AddressConfig, LayerConfig, NetworkConfig, config_from_dict
from config.errors import InputError
from model import LaCTLVSM, SceneState
from model.layers.address import address_of, focus_of, frequencies_of, places_of
from model.layers.fast_weight import FastWeight
from model.ops.rotation import rotate
from tests.support.networks import random_poses, random_views, relative_error, small_model

SIZE, PATCH = (8, 12), 4
FOOT = AddressConfig("foot", ("qk", "hidden"), 0.5, 8.0)
# The six axes of an icosahedron, in any order and sense.
GOLDEN = (1 + math.sqrt(5)) / 2
AXES = torch.tensor([(0, 1, GOLDEN), (0, 1, -GOLDEN), (GOLDEN, 0, 1), (-GOLDEN, 0, 1), (1, GOLDEN, 0), (1, -GOLDEN, 0)])
AXES = (AXES / AXES[0].norm()).double()


def looking_at(point: Tensor, centres: Tensor) -> Tensor:
    """Return c2w (b, v, 4, 4) of cameras at `centres` (b, v, 3) whose optical axes meet in `point` (b, 3)."""
    forward = F.normalize(point[:, None] - centres, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.3, 0.1, 1.0], dtype=centres.dtype).expand_as(forward)), dim=-1)
    c2w = torch.eye(4, dtype=centres.dtype).repeat(*centres.shape[:2], 1, 1)
    c2w[..., :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    c2w[..., :3, 3] = centres
    return c2w


def moved(c2w: Tensor, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Return the cameras after a rigid motion of the world, and the motion."""
    motion = random_poses(seed=seed)
    return motion @ c2w, motion


def measured(turn: Tensor) -> Tensor:
    """Return the place given by angles of a thousandth of a radian per unit, float64."""
    return torch.atan2(turn[1], turn[0]).double() / 1e-3


def foot_of(views: dict[str, Tensor], focus: Tensor) -> Tensor:
    """Return foot − focus of every token along the six axes, (b, v, t, 6) float64."""
    config = AddressConfig("foot", ("qk",), 1e-3, 1e-3, frequencies=1)
    places = places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, focus)
    return measured(address_of(config, places, 12).turn_qk).unflatten(1, (views["c2w"].shape[1], -1))


def expected_feet(views: dict[str, Tensor], focus: Tensor) -> Tensor:
    """Return foot − focus, (b, v, t, 3) float64, ray by ray, patch by patch, from the definition."""
    b, v = views["c2w"].shape[:2]
    rows, columns = SIZE[0] // PATCH, SIZE[1] // PATCH
    feet = torch.zeros(b, v, rows * columns, 3, dtype=torch.float64)
    for i in range(b):
        for j in range(v):
            fx, fy, cx, cy = views["fxfycxcy"][i, j].double()
            pose = views["c2w"][i, j].double()
            for t in range(rows * columns):
                x, y = PATCH * (t % columns + 0.5), PATCH * (t // columns + 0.5)
                ray = pose[:3, :3] @ torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(fx)])
                offset = pose[:3, 3] - focus[i].double()
                # Least squares: the depth at which the ray is nearest to the focus.
                depth = torch.linalg.lstsq(ray[:, None], -offset[:, None]).solution[0, 0]
                feet[i, j, t] = offset + depth * ray
    return feet


def test_feet_are_the_points_of_the_rays_nearest_to_the_focus() -> None:
    views, focus = random_views(2, 3, *SIZE), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    along, feet = foot_of(views, focus), expected_feet(views, focus)
    known = feet @ AXES.T
    # Each of the six numbers is the foot along one axis, up to its sense; float32 angles of a thousandth of a radian.
    distance = torch.stack([(along[..., i, None] - s * known).abs().amax((0, 1, 2)) for i in range(6) for s in (1, -1)])
    assert (distance.view(6, 2, 6).amin(1) < 2e-4).sum(1).tolist() == [1] * 6
    assert (distance.view(6, 2, 6).amin(1) < 2e-4).sum(0).tolist() == [1] * 6
    # Six axes of an icosahedron measure the length: the sum of squares is twice that of the foot.
    torch.testing.assert_close(along.square().sum(-1), 2 * feet.square().sum(-1), rtol=1e-3, atol=1e-4)


def test_foot_of_a_projected_point_is_as_far_away_as_the_point_is_along_its_ray() -> None:
    generator = torch.Generator().manual_seed(3)
    centres = F.normalize(torch.randn(1, 4, 3, generator=generator), dim=-1) * 2.5
    c2w = looking_at(torch.zeros(1, 3), centres)
    focus = torch.tensor([[0.1, -0.2, 0.05]])
    for view in range(4):
        point = torch.randn(3, generator=generator) * 0.3
        camera = c2w[0, view, :3, :3].T @ (point - c2w[0, view, :3, 3])
        # A lens whose only patch is centred where the point is seen.
        column, row = PATCH / 2, PATCH / 2
        lens = torch.tensor([[[40.0, 50.0, column - 40.0 * camera[0] / camera[2], row - 50.0 * camera[1] / camera[2]]]])
        places = places_of(lens, c2w[:, view : view + 1], (PATCH, PATCH), PATCH, focus)
        turn = address_of(AddressConfig("foot", ("qk",), 1e-3, 1e-3, 1), places, 12).turn_qk
        length = measured(turn).norm() / math.sqrt(2)
        from_focus = point - focus[0]
        ray = F.normalize(point - c2w[0, view, :3, 3], dim=0)
        # Pythagoras: the point's distance from the focus, without its part along the ray.
        expected = (from_focus.norm() ** 2 - (from_focus @ ray) ** 2).sqrt()
        assert float(length) == pytest.approx(float(expected), abs=2e-4)


def test_focus_is_where_axes_meet() -> None:
    generator = torch.Generator().manual_seed(2)
    point, centres = torch.randn(2, 3, generator=generator), torch.randn(2, 6, 3, generator=generator) * 3
    found = focus_of(looking_at(point, centres))
    # Drawn towards the mean centre by a thousandth of what holds it across the axes, about two thirds per view.
    pull = (centres.mean(1) - point).norm(dim=-1)
    assert ((found - point).norm(dim=-1) < 4e-3 * pull).all()


def test_focus_minimises_the_written_sum() -> None:
    c2w = random_poses(2, 5, seed=4).double()
    point = focus_of(c2w).double().requires_grad_()
    centre, axis = c2w[..., :3, 3], c2w[..., :3, 2]
    offset = point[:, None] - centre
    across = offset - (offset * axis).sum(-1, keepdim=True) * axis
    loss = across.square().sum() + 5 * 1e-3 * (point - centre.mean(1)).square().sum()  # five views
    (gradient,) = torch.autograd.grad(loss, point)
    assert gradient.abs().max() < 1e-5  # the point is rounded to float32: 1e-7 times the curvature, 10


@pytest.mark.parametrize("views", [1, 3])
def test_focus_of_parallel_axes_is_level_with_the_cameras_and_continuous(views: int) -> None:
    c2w = random_poses(1, 1, seed=6).repeat(1, views, 1, 1)
    c2w[0, :, :3, 3] += torch.randn(views, 3, generator=torch.Generator().manual_seed(7))
    centre = c2w[0, :, :3, 3].mean(0)
    torch.testing.assert_close(focus_of(c2w)[0], centre, rtol=0, atol=1e-5)
    # Turned by a ten-thousandth of a radian the axes meet far away; the focus stays near.
    generator = torch.Generator().manual_seed(8)
    turned = c2w.clone()
    turned[0, :, :3, :3] = torch.linalg.qr(c2w[0, :, :3, :3] + 1e-4 * torch.randn(views, 3, 3, generator=generator)).Q
    sense = (turned[0, :, :3, 2] * c2w[0, :, :3, 2]).sum(-1).sign()
    turned[0, :, :3, :3] *= sense[:, None, None]
    assert (focus_of(turned)[0] - centre).norm() < 0.2


def test_focus_and_feet_move_with_the_cameras() -> None:
    views = random_views(1, 4, *SIZE)
    focus = focus_of(views["c2w"])
    c2w, motion = moved(views["c2w"])
    torch.testing.assert_close(focus_of(c2w)[0], motion[:3, :3] @ focus[0] + motion[:3, 3], rtol=1e-5, atol=1e-5)
    before, after = expected_feet(views, focus), expected_feet({**views, "c2w": c2w}, focus_of(c2w))
    torch.testing.assert_close(after, before @ motion[:3, :3].T.double(), rtol=1e-4, atol=1e-4)


def test_translation_of_all_cameras_leaves_the_angles_of_feet_as_they_are() -> None:
    views = random_views(2, 4, *SIZE)
    shifted = {**views, "c2w": views["c2w"].clone()}
    shifted["c2w"][..., :3, 3] += torch.tensor([30.0, -50.0, 20.0])
    turns = []
    for x in (views, shifted):
        places = places_of(x["fxfycxcy"], x["c2w"], SIZE, PATCH, focus_of(x["c2w"]))
        turns.append(address_of(FOOT, places, 24).turn_qk)
    # 8 radians per unit, coordinates of 50 in float32: 8 · 50 · 2^-23, a few times.
    assert (turns[0] - turns[1]).abs().max() < 5e-4


def test_lines_are_direction_and_moment_of_any_point_on_the_ray() -> None:
    views = random_views(1, 2, *SIZE)
    config = AddressConfig("line", ("qk",), 1e-3, 1e-3, 1)
    places = places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, None)
    turn = address_of(config, places, 12).turn_qk
    line = measured(turn).unflatten(1, (2, -1))
    feet = expected_feet(views, torch.zeros(1, 3))  # points on the rays, found another way
    direction = line[..., :3]
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(1, 2, 6, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(line[..., 3:], torch.linalg.cross(feet, direction, dim=-1), rtol=2e-3, atol=2e-3)


def test_image_places_are_heights_from_the_centre_whatever_the_camera() -> None:
    views = random_views(1, 2, *SIZE)
    config = AddressConfig("image", ("qk",), 1e-3, 1e-3, 1)
    turn = address_of(config, places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, None), 4).turn_qk
    place = measured(turn).unflatten(1, (2, -1))[0]
    expected = torch.tensor([(x, y) for y in (-0.25, 0.25) for x in (-0.5, 0.0, 0.5)], dtype=torch.float64)
    torch.testing.assert_close(place, expected.expand(2, 6, 2), rtol=1e-4, atol=1e-6)


def test_ladder_is_geometric_and_as_long_as_fits() -> None:
    views = random_views(1, 1, *SIZE)
    places = places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, focus_of(views["c2w"]))
    config = AddressConfig("image", ("qk",), 0.001, 0.016)
    assert [frequencies_of(config, width) for width in (3, 4, 20, 21)] == [0, 1, 5, 5]
    turn = address_of(config, places, 20).turn_qk
    angle = measured(turn)[0].unflatten(-1, (2, 5))
    ratio = angle[..., 1:] / angle[..., :1]
    assert torch.allclose(ratio[[0, 2, 3]], torch.tensor([2.0, 4, 8, 16], dtype=torch.float64), rtol=1e-3)
    assert frequencies_of(AddressConfig("foot", ("qk",), 1, 2, frequencies=3), 128) == 3
    assert frequencies_of(FOOT, 128) == 10


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("back", [False, True])
def test_rotation_is_a_product_of_complex_numbers(gradients: bool, back: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 11, generator=generator, dtype=torch.float64)
    angle = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    turn = torch.stack([angle.cos(), angle.sin()])
    with torch.set_grad_enabled(gradients):
        found = rotate(x, turn, back)
        in_place = rotate(x.clone(), turn, back, in_place=True)
    unit = torch.polar(torch.ones_like(angle), -angle if back else angle).repeat_interleave(3, dim=0)
    expected = torch.complex(x[..., :4], x[..., 4:8]) * unit
    assert relative_error(found[..., :8], torch.cat([expected.real, expected.imag], dim=-1)) < 1e-15
    assert torch.equal(found[..., 8:], x[..., 8:])
    assert torch.equal(in_place, found)
    assert relative_error(found.norm(dim=-1), x.norm(dim=-1)) < 1e-15


def test_rotation_has_its_gradient() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(1, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, torch.stack([angle.cos(), angle.sin()])), (x,))


def test_rotation_of_shapes_that_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rotate: x is \(3, 5, 4\), turn \(2, 2, 5, 1\); wanted \(b·n, l, k\) and"):
        rotate(torch.zeros(3, 5, 4), torch.zeros(2, 2, 5, 1))
    with pytest.raises(ValueError, match=r"rotate: x is \(2, 5, 4\), turn \(2, 2, 5, 3\)"):
        rotate(torch.zeros(2, 5, 4), torch.zeros(2, 2, 5, 3))


@pytest.mark.parametrize("w1_only", [False, True])
@pytest.mark.parametrize("sites", [("qk",), ("hidden",), ("vo",), ("qk", "hidden", "vo")])
def test_rotated_write_is_a_step_down_the_written_loss(sites: tuple[str, ...], w1_only: bool) -> None:
    torch.manual_seed(0)
    layer = FastWeight(26, 13, 2, 0.01, 0, AddressConfig("foot", sites, 0.5, 8.0, 1), w1_only)
    torch.nn.init.normal_(layer.lr_fc.bias)
    views, x = random_views(2, 3, *SIZE), torch.randn(2, 3, 6, 26)
    places = places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, focus_of(views["c2w"]))
    address = layer.address(places)
    with torch.no_grad():
        _, found = layer.write(x, None, address)

    # From here on float64 and the definition: token by token, head by head, pairs as complex numbers.
    x, weight = x.flatten(1, 2).double(), layer.to_qkv.weight.detach().double()
    projected = F.silu(x @ weight.T).unflatten(-1, (3, 2, 13))
    key, value = projected[:, :, 1], projected[:, :, 2]
    key = key / (key.norm(dim=-1, keepdim=True) + 1e-5)
    along = {name: getattr(address, f"turn_{name}") for name in ("qk", "hidden")}

    def turned(y: Tensor, turn: Tensor | None) -> Tensor:
        if turn is None:
            return y
        z = torch.complex(y[..., :6], y[..., 6:12]) * torch.complex(*turn.double().unbind(0))[:, :, None]
        return torch.cat([z.real, z.imag, y[..., 12:]], dim=-1)

    key = turned(key, along["qk"])
    if "vo" in sites:
        rotation = views["c2w"][..., :3, :3].double().repeat_interleave(6, dim=1)
        blocks = torch.einsum("blij,blncj->blnci", rotation, value[..., :12].unflatten(-1, (4, 3)))
        value = torch.cat([blocks.flatten(-2), value[..., 12:]], dim=-1)
    rates = F.linear(x, layer.lr_fc.weight.detach().double(), layer.lr_fc.bias.detach().double())
    rates = F.softplus(rates + math.log(math.expm1(0.01))).unflatten(-1, (-1, 2))
    for i, name in enumerate(["w1"] if w1_only else ["w0", "w1", "w2"]):
        leaves = {w: getattr(layer, w).detach().double().requires_grad_() for w in ("w0", "w1", "w2")}
        gate, up = (torch.einsum("blnk,nkm->blnm", key, leaves[w]) for w in ("w0", "w2"))
        out = torch.einsum("blnm,nmk->blnk", turned(F.silu(gate) * up, along["hidden"]), leaves["w1"])
        loss = -(rates[:, :, i, :, None] * value * out).sum(dim=(1, 2, 3))
        for scene in range(2):
            (gradient,) = torch.autograd.grad(loss[scene], leaves[name], retain_graph=True)
            assert relative_error(found[i].unflatten(0, (2, 2))[scene].double(), -gradient) < 1e-5, name  # float32 rounding


def test_read_turns_outputs_back_by_the_camera() -> None:
    torch.manual_seed(0)
    layer = FastWeight(24, 12, 2, 0.01, 0, AddressConfig("image", ("vo",), 1.0, 1.0))
    layer.o_norm = torch.nn.Identity()
    layer.c_proj = torch.nn.Identity()
    views, x = random_views(1, 2, *SIZE), torch.randn(1, 2, 6, 24)
    address = layer.address(places_of(views["fxfycxcy"], views["c2w"], SIZE, PATCH, None))
    with torch.no_grad():
        state = layer.finish(layer.write(x, None, address))
        plain, turned = layer.read(x, state, True), layer.read(x, state, True, address)
    for view in range(2):
        blocks = turned[0, view].unflatten(-1, (-1, 3)) @ views["c2w"][0, view, :3, :3].T
        assert relative_error(blocks.flatten(-2), plain[0, view]) < 1e-5


@pytest.mark.parametrize("phases", ["image", "line", "foot"])
def test_no_frequencies_are_no_address(phases: str) -> None:
    names = ("self_attention", "fast_weight", "mlp")
    plain = small_model(*names)
    block = list(plain.config.block)
    address = AddressConfig(phases, ("qk", "hidden"), 1.0, 2.0, frequencies=0)
    block[1] = LayerConfig("fast_weight", "vl", {**block[1].params, "address": address})
    model = LaCTLVSM(NetworkConfig(4, 48, 2, tuple(block))).set_fast_weight(torch.float32)
    model.load_state_dict(plain.state_dict())
    given, wanted = random_views(2, 3, *SIZE), random_views(2, 2, *SIZE, seed=3)
    assert torch.equal(model(given, wanted), plain(given, wanted))


def test_address_changes_what_is_rendered() -> None:
    given, wanted = random_views(1, 3, *SIZE), random_views(1, 2, *SIZE, seed=3)
    plain = small_model("self_attention", "fast_weight", "mlp")
    for name in ("fast_weight by image", "fast_weight by foot"):
        model = small_model("self_attention", name, "mlp")
        model.load_state_dict(plain.state_dict())
        assert (model(given, wanted) - plain(given, wanted)).abs().max() > 1e-4, name


def test_focus_belongs_to_the_state(tmp_path) -> None:
    model = small_model("self_attention", "fast_weight by foot", "mlp")
    given, wanted = random_views(2, 3, *SIZE), random_views(2, 2, *SIZE, seed=3)
    state = model.reconstruct(**given)
    torch.testing.assert_close(state.focus, focus_of(given["c2w"]), rtol=0, atol=0)
    state.save(tmp_path / "state.safetensors")
    loaded = SceneState.load(tmp_path / "state.safetensors")
    assert torch.equal(loaded.focus, state.focus)
    expected = model.render(state, wanted["fxfycxcy"], wanted["c2w"], SIZE)
    assert torch.equal(model.render(loaded, wanted["fxfycxcy"], wanted["c2w"], SIZE), expected)
    loaded.focus = loaded.focus + 0.3
    assert (model.render(loaded, wanted["fxfycxcy"], wanted["c2w"], SIZE) - expected).abs().max() > 1e-4
    loaded.focus = None
    with pytest.raises(ValueError, match="scene state: holds no focus, which this network's config needs"):
        model.render(loaded, wanted["fxfycxcy"], wanted["c2w"], SIZE)


def test_a_network_without_feet_keeps_no_focus() -> None:
    assert small_model("fast_weight").reconstruct(**random_views(1, 2, *SIZE)).focus is None
    assert small_model("fast_weight by line").reconstruct(**random_views(1, 2, *SIZE)).focus is None


def test_all_of_a_scene_may_move_and_turn_for_feet_along_the_axes_that_turn_with_it() -> None:
    # A translation of the world: rays change at the input, so images may differ; addresses may not.
    model = small_model("fast_weight by foot")
    views = random_views(1, 3, *SIZE)
    shifted = views["c2w"].clone()
    shifted[..., :3, 3] += torch.tensor([3.0, -5.0, 2.0])
    turns = [
        model._addresses(views["fxfycxcy"], c2w, SIZE, model._focus(c2w, None))[0].turn_hidden for c2w in (views["c2w"], shifted)
    ]
    assert (turns[0] - turns[1]).abs().max() < 1e-4


def test_angles_are_float32_in_a_network_of_bfloat16() -> None:
    # Angles of several hundred radians in bfloat16 would be off by a radian.
    model, views = small_model("fast_weight by foot"), random_views(1, 2, *SIZE)
    focus = model._focus(views["c2w"], None)
    wide, narrow = (
        model.set_compute_dtype(dtype)._addresses(views["fxfycxcy"], views["c2w"], SIZE, focus)[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(narrow.turn_qk, wide.turn_qk)
    assert narrow.turn_qk.dtype == narrow.rotation.dtype == torch.float32
    x = torch.randn(2, 12, 24).bfloat16()
    with torch.no_grad():
        found, expected = rotate(x, narrow.turn_qk), rotate(x.double(), narrow.turn_qk.double())
    assert relative_error(found.double(), expected) < 2**-9  # rounded once


LAYER = {"type": "fast_weight", "length_dim": "vl", "params": {"head_dim": 24, "inter_multi": 2, "base_lr": 0.01}}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("foot", r"^x, block\[0\], params, address: is 'foot'; wanted a mapping with phases, sites, lowest and highest"),
        ({"site": ["qk"]}, r"^x, block\[0\], params, address, site: is unknown; wanted a known key; did you mean 'sites'\?"),
        ({"phases": "feet"}, r"^x, block\[0\], params, address, phases: is 'feet'; wanted image, line, foot"),
        ({"sites": "qk"}, r"^x, block\[0\], params, address, sites: is 'qk'; wanted a list of one or more of qk, hidden, vo"),
        ({"sites": []}, r"^x, block\[0\], params, address, sites: is \[\]; wanted a list"),
        ({"sites": ["qk", "qk"]}, r"^x, block\[0\], params, address, sites: is \['qk', 'qk'\]; wanted a list"),
        ({"lowest": 0}, r"^x, block\[0\], params, address, lowest: is 0; wanted a number above 0"),
        ({"highest": "1e2"}, r"^x, block\[0\], params, address, highest: is '1e2'; wanted a number above 0"),
        ({"lowest": 5.0}, r"^x, block\[0\], params, address, lowest: is 5.0; wanted highest, 4.0, or less"),
        ({"highest": 10**400}, r"^x, block\[0\], params, address, highest: is 10{40}.*; wanted a number above 0, 1e-09 to 1e\+09"),
        ({"lowest": 5e-324}, r"^x, block\[0\], params, address, lowest: is 5e-324; wanted a number above 0, 1e-09"),
        ({"frequencies": 2**40}, r"^x, block\[0\], params, address, frequencies: is 1099511627776; wanted a whole number, or"),
        ({"frequencies": -1}, r"^x, block\[0\], params, address, frequencies: is -1; wanted a whole number, or nothing"),
        ({"frequencies": 2.5}, r"^x, block\[0\], params, address, frequencies: is 2.5; wanted a whole number, or nothing"),
    ],
)
def test_bad_addresses_are_refused(change: object, match: str) -> None:
    address = {"phases": "foot", "sites": ["qk"], "lowest": 1.0, "highest": 4.0}
    address = address | change if isinstance(change, dict) else change
    layer = {**LAYER, "params": {**LAYER["params"], "address": address}}
    with pytest.raises(ValueError, match=match):
        config_from_dict({"patch_size": 4, "dim": 48, "layers": 1, "block": [layer]}, "x")


def test_address_survives_a_dict_and_needs_hidden_numbers() -> None:
    address = {"phases": "line", "sites": ["qk", "vo"], "lowest": 1.0, "highest": 4.0, "frequencies": 3}
    layer = {**LAYER, "params": {**LAYER["params"], "address": address}}
    config = config_from_dict({"patch_size": 4, "dim": 48, "layers": 1, "block": [layer]})
    assert config.to_dict()["block"][0]["params"]["address"] == address
    assert config_from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match=r"inter_multi: is 0.5; wanted 1 or more, to rotate hidden numbers"):
        FastWeight(48, 24, 0.5, 0.01, 5, AddressConfig("line", ("hidden",), 1.0, 2.0))
