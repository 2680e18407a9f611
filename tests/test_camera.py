"""Camera rays against projection back to their pixels."""

import pytest
import torch

from model.camera import rays
from tests.support.poses import random_poses

FXFYCXCY = torch.tensor([[[11.0, 13.0, 3.2, 4.9], [9.0, 8.5, 2.5, 3.0], [21.0, 20.0, 4.1, 2.2]], [[7.0, 9.0, 3.5, 4.5]] * 3])


def test_points_along_the_rays_project_to_pixel_centres() -> None:
    h, w = 9, 7
    c2w = random_poses(2, 3)
    origin, direction = rays(FXFYCXCY, c2w.float(), (h, w))
    assert origin.shape == direction.shape == (2, 3, 3, h, w)
    depth = 0.5 + 3 * torch.rand(2, 3, 1, h, w, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    points = origin.double() + depth * direction.double()
    homogeneous = torch.cat([points, torch.ones_like(depth)], dim=2).flatten(3)
    x, y, z = (torch.linalg.inv(c2w) @ homogeneous).unflatten(3, (h, w))[:, :, :3].unbind(2)
    fx, fy, cx, cy = FXFYCXCY.double()[..., None, None].unbind(2)
    assert (z > 0).all()
    # float32 directions are good to 1e-7 of a unit; times a focal of 21 px, over a depth of 0.5 or more.
    columns = torch.arange(w).expand(2, 3, h, w) + 0.5
    rows = torch.arange(h)[:, None].expand(2, 3, h, w) + 0.5
    assert (fx * x / z + cx - columns).abs().max() < 1e-4
    assert (fy * y / z + cy - rows).abs().max() < 1e-4


def test_directions_are_unit_and_origins_are_camera_centres() -> None:
    c2w = random_poses(2, 3, seed=3).float()
    origin, direction = rays(FXFYCXCY, c2w, (5, 8))
    # float32 machine epsilon is 1.2e-7.
    torch.testing.assert_close(direction.norm(dim=2), torch.ones(2, 3, 5, 8), atol=5e-7, rtol=0)
    assert torch.equal(origin, c2w[:, :, :3, 3, None, None].expand(2, 3, 3, 5, 8))


def test_a_scaled_rotation_still_gives_unit_directions() -> None:
    c2w = random_poses(1, seed=4).float()
    scaled = c2w.clone()
    scaled[:, :3, :3] *= 1.25
    torch.testing.assert_close(rays(FXFYCXCY[0, :1], scaled, (4, 6))[1], rays(FXFYCXCY[0, :1], c2w, (4, 6))[1], atol=5e-7, rtol=0)


def test_rays_are_float32_in_every_precision_and_under_autocast() -> None:
    c2w = random_poses(2, 3, seed=5)
    expected = rays(FXFYCXCY, c2w.float(), (5, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = rays(FXFYCXCY, c2w.float(), (5, 8))
    for got in (lowered, rays(FXFYCXCY.double(), c2w, (5, 8))):
        assert got[0].dtype == got[1].dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert rays(FXFYCXCY.bfloat16(), c2w.bfloat16(), (5, 8))[1].dtype == torch.float32


def test_rays_without_a_batch_and_with_more_dimensions_agree() -> None:
    c2w = random_poses(2, 3, seed=6).float()
    whole = rays(FXFYCXCY, c2w, (3, 4))
    single = rays(FXFYCXCY[1, 2], c2w[1, 2], (3, 4))
    assert torch.equal(whole[1][1, 2], single[1])
    assert torch.equal(rays(FXFYCXCY[:, :, None], c2w[:, :, None], (3, 4))[0][:, :, 0], whole[0])


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4, 4)), ((2, 4), (3, 4, 4)), ((2, 4), (2, 3, 4))])
def test_rays_refuse_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"rays: fxfycxcy is .* wanted"):
        rays(torch.ones(shapes[0]), torch.ones(shapes[1]), (3, 4))


@pytest.mark.slow
def test_rays_compile_to_the_same_numbers() -> None:
    c2w = random_poses(2, 3, seed=8).float()
    compiled = torch.compile(rays, fullgraph=True)(FXFYCXCY, c2w, (6, 4))
    torch.testing.assert_close(compiled, rays(FXFYCXCY, c2w, (6, 4)), atol=1e-6, rtol=0)


def test_rays_on_every_device_under_autocast_equal_the_cpu(device: torch.device) -> None:
    c2w = random_poses(2, 3, seed=9).float()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = rays(FXFYCXCY.to(device), c2w.to(device), (6, 4))
    assert got[1].dtype == torch.float32
    torch.testing.assert_close([t.cpu() for t in got], list(rays(FXFYCXCY, c2w, (6, 4))), atol=1e-6, rtol=0)
