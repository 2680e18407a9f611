"""Normalised poses: equal to the published ones, and finite where those are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from config.errors import InputError
from data.poses import normalise_poses, scene_frame
from tests.support.poses import random_poses, random_rotation

GOLDEN = Path(__file__).parent / "golden" / "cameras_and_ops.npz"


def facing_poses(*lead: int, seed: int = 0) -> Tensor:
    """Cameras that look within about 40 degrees of a common direction, so that a mean direction exists."""
    c2w = random_poses(*lead, seed=seed)
    turn = torch.linalg.matrix_exp(0.4 * (c2w[..., :3, :3] - c2w[..., :3, :3].mT))
    c2w[..., :3, :3] = random_rotation(seed=seed + 7) @ turn
    return c2w


def inward_ring(views: int, elevation_deg: float) -> Tensor:
    c2w = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    elevation = np.deg2rad(elevation_deg)
    for view in range(views):
        a = 2 * np.pi * view / views
        centre = np.array([np.cos(elevation) * np.cos(a), np.cos(elevation) * np.sin(a), np.sin(elevation)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        c2w[view, :3, :4] = torch.from_numpy(np.stack([right, np.cross(-centre, right), -centre, 2.7 * centre], axis=1))
    return c2w[None]


def test_normalised_poses_equal_the_published_ones() -> None:
    golden = np.load(GOLDEN)
    got = normalise_poses(torch.from_numpy(golden["mean_pose.c2w"])[None])
    assert got.dtype == torch.float32
    # The published code works in float32: measured difference 2.3e-7.
    torch.testing.assert_close(got[0], torch.from_numpy(golden["mean_pose.expect"]), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("reference", "views"), [(None, [0, 1, 2, 3, 4]), (3, [0, 1, 2])])
def test_normalised_poses_centre_and_scale_the_reference_views(reference: int | None, views: list[int]) -> None:
    c2w = facing_poses(2, 5, seed=1)
    got = normalise_poses(c2w, reference, scene_scale=1.35)
    used = got[:, views]
    torch.testing.assert_close(used[..., :3, 3].mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(used[..., :3, 3].abs().amax((1, 2)) * 1.35, torch.ones(2, dtype=torch.float64))
    forward = used[..., :3, 2].mean(1)
    assert forward[:, :2].abs().max() < 1e-12
    assert (forward[:, 2] > 0).all()
    down = used[..., :3, 1].mean(1)
    assert down[:, 0].abs().max() < 1e-12
    assert (down[:, 1] > 0).all()


def test_the_matrix_of_a_frame_moves_points_as_the_frame_moves_cameras() -> None:
    c2w = facing_poses(2, 5, seed=3)
    frame = scene_frame(c2w, reference=3, scene_scale=1.35)
    moved = frame.apply(c2w)
    # A camera's centre, and the point two units of the frame in front of it.
    depth = 2 * frame.unit[:, None, None]
    for points, expected in ((c2w[..., :3, 3], moved[..., :3, 3]), (c2w[..., :3, 3] + depth * c2w[..., :3, 2], None)):
        expected = moved[..., :3, 3] + 2 * moved[..., :3, 2] if expected is None else expected
        got = points @ frame.matrix[:, :3, :3].mT + frame.matrix[:, None, :3, 3]
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_normalised_poses_are_one_similarity_of_the_given_ones() -> None:
    c2w = facing_poses(2, 4, seed=2)
    got = normalise_poses(c2w, reference=2)
    for before, after in zip(c2w, got, strict=True):
        ratio = torch.pdist(after[:, :3, 3]) / torch.pdist(before[:, :3, 3])
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        # Relative poses keep their rotation, and their translation up to that one scale.
        relative_before, relative_after = torch.linalg.inv(before[0]) @ before, torch.linalg.inv(after[0]) @ after
        torch.testing.assert_close(relative_after[:, :3, :3], relative_before[:, :3, :3])
        torch.testing.assert_close(relative_after[:, :3, 3], relative_before[:, :3, 3] * ratio[0])
        assert torch.equal(after[:, 3], before[:, 3])


def test_normalised_poses_do_not_depend_on_the_world_or_the_rest_of_the_batch() -> None:
    c2w = facing_poses(2, 4, seed=3)
    world = random_poses(seed=4)
    moved = world @ c2w
    moved[..., :3, 3] *= 6.5
    torch.testing.assert_close(normalise_poses(moved), normalise_poses(c2w), atol=1e-12, rtol=0)
    torch.testing.assert_close(normalise_poses(c2w)[1:], normalise_poses(c2w[1:]), atol=1e-14, rtol=0)


@pytest.mark.parametrize("elevation_deg", [0.0, 30.0])
def test_a_ring_that_looks_inwards_takes_the_axes_of_its_first_camera(elevation_deg: float) -> None:
    # At 0 degrees the mean direction vanishes; at 30 it is the vertical, and so is the mean of the cameras' y.
    c2w = inward_ring(8, elevation_deg).float()
    both = torch.cat([c2w, facing_poses(1, 8, seed=5).float()])
    got = normalise_poses(both)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[0, 0, :3, :3], torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(got[1:], normalise_poses(both[1:]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reference", [None, 1])
def test_cameras_at_one_place_tell_no_scale(reference: int | None) -> None:
    c2w = facing_poses(2, 3, seed=6).float()
    c2w[1, :, :3, 3] = torch.tensor([101.3, -7.7, 0.3])
    # One place up to float32 rounding.
    c2w[1, 2, 0, 3] = torch.nextafter(c2w[1, 2, 0, 3], torch.tensor(200.0))
    where = "scene 1, cameras" if reference is None else "scene 0, cameras"
    with pytest.raises(InputError, match=f"^{where}: spread over .*, too little to set a scale; wanted"):
        normalise_poses(c2w, reference)


def test_a_pose_that_is_not_a_number_is_refused() -> None:
    c2w = facing_poses(1, 3, seed=6)
    c2w[0, 1, 0, 3] = float("nan")
    with pytest.raises(InputError, match=r"^cameras: spread over nan, too little"):
        normalise_poses(c2w)


def test_normalise_poses_refuses_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"c2w is \(3, 4, 4\); wanted"):
        normalise_poses(torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="scene_scale is 0; wanted"):
        normalise_poses(facing_poses(1, 3), scene_scale=0)
    for reference in (0, 4, -1):
        with pytest.raises(ValueError, match=r"reference is .* of 3 views; wanted"):
            normalise_poses(facing_poses(1, 3), reference)
