"""Random rigid poses in float64."""

import torch
from torch import Tensor


def random_rotation(*lead: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(*lead, 3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return q * torch.linalg.det(q)[..., None, None]


def random_poses(*lead: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    c2w = torch.eye(4, dtype=torch.float64).repeat(*lead, 1, 1)
    c2w[..., :3, :3] = random_rotation(*lead, seed=seed)
    c2w[..., :3, 3] = torch.randn(*lead, 3, generator=generator, dtype=torch.float64) * 2
    return c2w
