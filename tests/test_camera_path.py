"""Camera paths: circles that hold the object in every frame, or fit the inputs' ring; flights; the published turntable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config.errors import InputError
from model import SceneState
from model.camera_path import CameraPath, flight, orbit, published_turntable, turntable
from model.spline import smooth_path

GOLDEN = Path(__file__).parent / "golden" / "cameras_and_ops.npz"


def assert_rigid(c2w: Tensor) -> None:
    rotation = c2w[:, :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    assert torch.equal(c2w[:, 3].double(), torch.tensor([0.0, 0, 0, 1]).double().expand(len(c2w), 4))


def looking(position: np.ndarray, target: np.ndarray, up: np.ndarray, roll_deg: float = 0.0) -> np.ndarray:
    """Return the pose of a camera that looks at a point, its image upright but for a roll."""
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, up) / np.linalg.norm(np.cross(z, up))
    y = np.cross(z, x)
    roll = np.deg2rad(roll_deg)
    c2w = np.eye(4)
    c2w[:3] = np.stack([np.cos(roll) * x + np.sin(roll) * y, np.cos(roll) * y - np.sin(roll) * x, z, position], axis=1)
    return c2w


def state_of(c2w: Any, focal: Any = 60.0, image_size: tuple[int, int] = (48, 64), cx: float | None = None) -> SceneState:
    """Return a state of one scene with inputs of square pixels."""
    c2w = torch.from_numpy(np.stack(c2w))
    h, w = image_size
    fxfycxcy = torch.tensor([1.0, 1.0, w / 2 if cx is None else cx, h / 2]).repeat(len(c2w), 1)
    fxfycxcy[:, :2] *= torch.as_tensor(focal).reshape(-1, 1)
    return SceneState([], fxfycxcy[None], c2w.float()[None], image_size, "")


def around(
    azimuths_deg: Any, elevations_deg: Any, distance: Any, centre: Any = (0, 0, 0), frame: Any = None, roll_deg: Any = 0.0
) -> list[np.ndarray]:
    """Return cameras around a point of a frame (3, 3), whose columns are x, y and up in the world."""
    frame, centre = np.eye(3) if frame is None else frame, np.array(centre)
    poses = []
    for azimuth, elevation, d, roll in np.broadcast(azimuths_deg, elevations_deg, distance, roll_deg):
        a, e = np.deg2rad([azimuth, elevation])
        outward = frame @ [np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)]
        poses.append(looking(centre + d * outward, centre, frame[:, 2], roll))
    return poses


def outline(radius: float, count: int = 4000) -> np.ndarray:
    """Return points all over a sphere around the origin."""
    points = np.random.default_rng(0).normal(size=(count, 3))
    return radius * points / np.linalg.norm(points, axis=1, keepdims=True)


def extent(path: CameraPath, points: np.ndarray) -> np.ndarray:
    """Return how far (f, 2) points reach from the middle of each frame, across and down, in halves of its sides."""
    w2c = np.linalg.inv(path.c2w.double().numpy())
    seen = points @ w2c[:, :3, :3].transpose(0, 2, 1) + w2c[:, None, :3, 3]
    assert (seen[..., 2] > 0).all()
    pixels = seen[..., :2] / seen[..., 2:] * path.fxfycxcy[:, None, :2].numpy()
    return (np.abs(pixels) / (np.array(path.image_size[::-1]) / 2)).max(1)


TILTED = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
TILTED *= np.linalg.det(TILTED)


@pytest.mark.parametrize("image_size", [(40, 90), (90, 40), (56, 56)])
@pytest.mark.parametrize("options", [{}, {"fov_deg": 20.0}, {"fov_deg": 110.0, "elevation_deg": -75.0}])
def test_a_turntable_keeps_what_the_inputs_show_in_every_frame(image_size: tuple[int, int], options: dict) -> None:
    distance = np.array([2.0, 2.6, 3.1])
    state = state_of(around([10, 130, 260], [5, 40, -20], distance))
    # The middle input of 2.6 shows a sphere whose tangent to the image's upper side has the slope 24 / 60.
    radius = 2.6 * np.sin(np.arctan(24 / 60))
    path = turntable(state, 24, image_size, **options)
    reach = extent(path, outline(radius.item()))
    assert reach.max() <= 1 + 1e-5
    assert reach.max(1).min() > 0.97  # and not much smaller: 4000 points of the sphere
    assert_rigid(path.c2w)
    np.testing.assert_allclose(path.c2w[:, 2, 0], 0, atol=1e-6)
    elevation = torch.rad2deg(torch.asin(path.c2w[:, 2, 3] / path.c2w[:, :3, 3].norm(dim=-1)))
    wanted = options.get("elevation_deg", 30 + 15 * np.sin(np.arange(24) * 2 * np.pi / 24))
    np.testing.assert_allclose(elevation, np.broadcast_to(wanted, 24), atol=1e-3)


def test_what_inputs_show_counts_their_axes_and_principal_points() -> None:
    # Looks 10 degrees past the origin, and its image's middle is elsewhere: the nearest side is the right one.
    c2w = np.eye(4)
    c2w[:3, 3] = 0, 0, -3.0
    turn = np.deg2rad(10)
    c2w[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    state = state_of([c2w], focal=60.0, image_size=(96, 64), cx=12.0)
    # The camera turns its axis to the right, so the origin is on the left, 12 pixels wide: arctan(12 / 60) - 10 degrees are left.
    radius = 3 * np.sin(np.arctan(12 / 60) - turn)
    path = turntable(state, 3, (50, 50), fov_deg=50.0)
    np.testing.assert_allclose(path.c2w[:, :3, 3].norm(dim=-1), radius / np.sin(np.deg2rad(25)), rtol=1e-5)
    # Inputs that do not show the origin say nothing.
    away = around([0, 90], 0, 2.0, centre=(9, 9, 9))
    assert turntable(state_of([c2w, *away], image_size=(96, 64), cx=12.0), 3, (50, 50)).c2w.allclose(path.c2w)
    np.testing.assert_allclose(turntable(state_of(away), 3).c2w[:, :3, 3].norm(dim=-1), 2.35, rtol=1e-6)


def test_a_turntable_closes_and_takes_what_is_given() -> None:
    path = turntable(state_of(around([0, 90], 10, 2.0)), 8, radius=4.0, elevation_deg=10.0, fps=12.0)
    assert (len(path), path.image_size, path.fps) == (8, (48, 64), 12.0)
    np.testing.assert_allclose(path.c2w[:, :3, 3].norm(dim=-1), 4.0, rtol=1e-6)
    steps = (path.c2w.roll(-1, 0) - path.c2w)[:, :3, 3].norm(dim=-1)
    np.testing.assert_allclose(steps, steps[0].item(), rtol=1e-5)


RINGS = {
    "ring": (np.arange(0, 360, 30), 20.0, 3.0, 0.0),
    "half ring": (np.arange(0, 181, 20), 35.0, 3.0, 0.0),
    "dome": (np.tile(np.arange(0, 360, 45), 3), np.repeat([5.0, 40.0, 75.0], 8), 3.0, 0.0),
    "two cameras": ([10.0, 60.0], 15.0, 3.0, 0.0),
    "one above the other": ([10.0, 10.0], [0.0, 50.0], 3.0, 0.0),
    "unsteady hands": (np.arange(0, 360, 24), 10.0, np.linspace(2.6, 3.4, 15), 4.0 * np.sin(np.arange(15) * 2.0)),
}


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_an_orbit_has_the_centre_axis_distance_and_elevation_of_the_inputs(name: str, scale: float) -> None:
    azimuths, elevations, distances, rolls = RINGS[name]
    centre = scale * np.array([5.0, -3, 2])
    inputs = around(azimuths, elevations, scale * np.asarray(distances), centre, TILTED, rolls)
    path = orbit(state_of(inputs), 30)
    assert_rigid(path.c2w)
    outward = (path.c2w[:, :3, 3].double().numpy() - centre) @ TILTED
    distance = np.linalg.norm(outward, axis=1)
    np.testing.assert_allclose(distance, scale * np.mean(distances), rtol=0.01)
    # One above the other, nothing but the cameras' own direction up says where that is: 25 degrees off, halfway between the two.
    leaning = name == "one above the other"
    elevation = np.rad2deg(np.arcsin(outward[:, 2] / distance))
    if not leaning:
        np.testing.assert_allclose(elevation, np.mean(elevations), atol=1.5)
        azimuth = np.unwrap(np.arctan2(outward[:, 1], outward[:, 0]))
        np.testing.assert_allclose(np.rad2deg(np.diff(azimuth)), 12.0, atol=0.5)
        assert np.rad2deg(azimuth[0]) == pytest.approx(np.ravel(azimuths)[0], abs=1.5)
    # Every frame has the centre in its middle, and looks upright.
    seen = np.linalg.inv(path.c2w.double().numpy()) @ [*centre, 1]
    np.testing.assert_allclose(
        seen[:, :2] / seen[:, 2:3], 0, atol=0.01
    )  # measured 0.005: the focus is drawn to the cameras a little
    upright = -path.c2w[:, :3, 1].numpy() @ TILTED[:, 2]
    assert upright.min() > (0.6 if leaning else 0.2)


def test_an_orbit_has_the_inputs_field_of_view_or_the_given_one() -> None:
    state = state_of(around([0, 60, 120], 20, 2.0), focal=[50.0, 60.0, 70.0])
    path = orbit(state, 4, radius=5.0, elevation_deg=0.0)
    np.testing.assert_allclose(path.fxfycxcy[0], [60, 60, 32, 24])
    np.testing.assert_allclose(path.c2w[:, :3, 3].norm(dim=-1), 5, rtol=1e-3)
    # 48×64 covers 80×40 at 5 / 3 of its size.
    np.testing.assert_allclose(orbit(state, 4, (80, 40)).fxfycxcy[0], [100, 100, 20, 40])
    np.testing.assert_allclose(orbit(state, 4, (80, 40), fov_deg=90.0).fxfycxcy[0], [20, 20, 20, 40], rtol=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        around([40], 10, 2.0),
        [looking(np.array([x, 0, 0.0]), np.array([x, 9.0, 0]), np.array([0, 0, 1.0])) for x in range(4)],
        [looking(-pose[:3, 3] / 9, 9 * -pose[:3, 3], np.array([0, 0, 1.0])) for pose in around(range(0, 360, 40), 3, 1.0)],
    ],
    ids=["a single camera", "parallel axes", "a panorama"],
)
def test_cameras_that_look_at_no_common_point_have_no_orbit(inputs: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="cameras: look at no common point; wanted photos taken around an object"):
        orbit(state_of(inputs))


def test_a_flight_follows_the_inputs_and_crops_to_the_frame() -> None:
    inputs = around([0, 20, 45, 50, 90], [10, 0, 20, 5, 10], [2, 2.2, 2, 1.8, 2])
    state = state_of(inputs)
    path = flight(state, 200, (96, 64), smoothing=0.0)
    keys, lenses = state.c2w[0], torch.tensor([120.0, 120, 32, 48]).repeat(5, 1)
    fxfycxcy, c2w = smooth_path(keys, lenses, 200)
    torch.testing.assert_close(path.c2w, c2w)
    torch.testing.assert_close(path.fxfycxcy, fxfycxcy)
    smooth = flight(state, 200)
    torch.testing.assert_close(smooth.c2w[[0, -1]], keys[[0, -1]], atol=1e-5, rtol=0)
    # Smoothed by default, the peak acceleration is less than half; the path stays near: 0.3 of the mean distance between inputs.
    jolt = [p.c2w[:, :3, 3].diff(n=2, dim=0).norm(dim=-1).max() for p in (path, smooth)]
    assert jolt[1] < 0.5 * jolt[0]
    miss = torch.cdist(keys[:, :3, 3], smooth.c2w[:, :3, 3]).amin(1).max()
    assert miss < 0.3 * keys[:, :3, 3].diff(dim=0).norm(dim=-1).mean()


def test_paths_are_cut_resized_and_moved() -> None:
    path = published_turntable(7, (40, 60), 24.0)
    part = path.part(range(2, 5))
    assert (len(part), part.fps) == (3, 24.0)
    torch.testing.assert_close(part.c2w, path.c2w[2:5])
    assert len(path.part(range(7, 7))) == 0
    # Twice as high: twice the focal length; 100 columns wide: the middle stays the middle.
    f = path.fxfycxcy[0, 0].item()
    np.testing.assert_allclose(path.resized((80, 100)).fxfycxcy[0], [2 * f, 2 * f, 50, 40], rtol=1e-6)
    similarity = torch.from_numpy(np.block([[2.0 * TILTED, np.array([[1.0], [2], [3]])], [np.zeros((1, 3)), np.ones((1, 1))]]))
    moved = path.moved(similarity)
    assert_rigid(moved.c2w)
    point = torch.tensor([0.1, -0.2, 0.3, 1], dtype=torch.float64)
    seen = [torch.linalg.inv(p.c2w.double()) @ x for p, x in ((path, point), (moved, similarity @ point))]
    torch.testing.assert_close(seen[1][:, :3], 2 * seen[0][:, :3], atol=1e-5, rtol=0)


STATE = state_of(around([0, 90], 10, 2.0))
TWO = SceneState([], STATE.fxfycxcy.repeat(2, 1, 1), STATE.c2w.repeat(2, 1, 1, 1), (48, 64), "")


REFUSED = {
    (turntable, orbit, flight): [
        ({"state": TWO}, "state: holds 2 scenes; wanted one"),
        ({"num_frames": 0}, "num_frames: is 0; wanted 1"),
        ({"image_size": (4, 0)}, "image size: is 4 0; wanted"),
        ({"fps": 300.0}, "fps: is 300.0; wanted 0.1 to 240"),
    ],
    (turntable, orbit): [
        ({"radius": 0.0}, "radius: is 0.0; wanted"),
        ({"radius": float("nan")}, "radius: is nan; wanted"),
        ({"elevation_deg": 91.0}, "elevation: is 91.0 degrees; wanted -90 to 90"),
        ({"fov_deg": 0.0}, "field of view: is 0.0 degrees"),
    ],
    (flight,): [
        ({"smoothing": -1.0}, "smoothing: is -1.0; wanted"),
        ({"order": "any"}, "order: is 'any'; wanted"),
    ],
}


@pytest.mark.parametrize(("make", "change", "match"), [(f, *case) for fs, cases in REFUSED.items() for f in fs for case in cases])
def test_impossible_paths_are_refused(make: Any, change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(**{"state": STATE, "num_frames": 3} | change)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"c2w is \(3, 4, 4\) and fxfycxcy \(2, 4\); wanted"):
        CameraPath(torch.ones(2, 4), torch.ones(3, 4, 4), (4, 4))


def test_turntable_is_the_published_one() -> None:
    golden = np.load(GOLDEN)
    path = published_turntable(12, (256, 256))
    # float32 epsilon at values of 274 and 3.
    torch.testing.assert_close(path.fxfycxcy, torch.from_numpy(golden["turntable.fxfycxcy"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(path.c2w, torch.from_numpy(golden["turntable.c2w"]), atol=1e-6, rtol=0)


def test_turntable_of_a_wide_image_sees_the_origin_in_its_middle_and_the_fov_across_its_width() -> None:
    h, w = 90, 160
    path = published_turntable(9, (h, w), fov_deg=40.0, elevation_deg=(50.0, 45.0), radius=(4.0, -1.5))
    fxfycxcy, c2w = path.fxfycxcy, path.c2w
    assert_rigid(c2w)
    origin = (torch.linalg.inv(c2w) @ torch.tensor([0.0, 0, 0, 1]))[:, :3]
    torch.testing.assert_close(origin[:, :2], torch.zeros(9, 2), atol=1e-6, rtol=0)
    # Mean 4.0, swing -1.5; frame 2 of 9 is a quarter through, where the sine is 1 and elevation 95: past the pole.
    assert origin[:, 2].min().item() == pytest.approx(2.5)
    assert c2w[2, 1, 1] * c2w[0, 1, 1] < 0 or c2w[2, 2, 1] * c2w[0, 2, 1] < 0
    assert torch.equal(fxfycxcy[:, 2:], torch.tensor([80.0, 45.0]).expand(9, 2))
    half_width_deg = np.rad2deg(np.arctan(80 / fxfycxcy[:, 0].numpy()))
    np.testing.assert_allclose(half_width_deg, 20.0, rtol=1e-6)
    assert torch.equal(fxfycxcy[:, 0], fxfycxcy[:, 1])
    assert (c2w[:, 2, 0].abs() < 1e-6).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_frames": 0}, "num_frames: is 0; wanted 1"),
        ({"image_size": (0, 6)}, "image size: is 0 6"),
        ({"fov_deg": 180.0}, "field of view: is 180.0 degrees"),
        ({"radius": (1.0, -1.0)}, "radius: is 1.0 and swings by -1.0"),
        ({"fps": 0.0}, "fps: is 0.0; wanted 0.1 to 240"),
    ],
)
def test_the_published_turntable_refuses_what_gives_no_image(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        published_turntable(**{"num_frames": 3, "image_size": (4, 6)} | change)
