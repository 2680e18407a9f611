"""Viewers of the bundled examples, and scenes for them."""

import math
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from config.rendering import DEFAULT_OBJECTS, DEFAULT_SCENE_WEIGHTS, DEFAULT_SCENES, DEFAULT_WEIGHTS
from data.dataset import SceneDataset
from data.poses import scene_frame
from data.scene_format import Scene
from data.view_selection import select_views
from model import LaCTLVSM, SceneState, load_model
from model.viewer import Photos, ViewedScene
from tests.support.networks import relative_error

SIZE = (64, 64)
INPUTS = 6
FOV = math.radians(50)
# Relative, of float32 sums, which depend on the number of threads.
ROUNDING = 1e-4


def bundled_model(scenes: bool = False) -> LaCTLVSM:
    return load_model(DEFAULT_SCENE_WEIGHTS if scenes else DEFAULT_WEIGHTS, device="cpu")


def opened(
    scene: Scene, model: LaCTLVSM, normalised: bool = False, size: tuple[int, int] = SIZE, inputs: int = INPUTS
) -> ViewedScene:
    """Return a scene with some inputs of a size (h, w) for the viewer."""
    c2w = np.stack([view.c2w for view in scene.views])

    def choose(number: int) -> list[int]:
        return select_views(c2w, num_input_views=number, num_target_views=0, method="spread")[0]

    moved = scene_frame(torch.from_numpy(c2w)[None]).matrix[0] if normalised else None
    return ViewedScene.of_photos(Photos(scene, size, choose), model, scene.name, choose(inputs), moved)


def example_scenes(model: LaCTLVSM, scenes: bool = False) -> dict[str, Callable[[], ViewedScene]]:
    """Return the menu of the bundled objects or scenes."""
    dataset = SceneDataset(DEFAULT_SCENES if scenes else DEFAULT_OBJECTS, SIZE, patch_size=4)
    found = [dataset[i] for i in range(len(dataset))]
    return {scene.name: partial(opened, scene, model, scenes) for scene in found}


def until(condition: Callable[[], object], patience_s: float = 30.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR of two images of 8 bits, in dB."""
    return float(-10 * np.log10((((a.astype(float) - b) / 255) ** 2).mean() + 1e-12))


def direct(scene: ViewedScene, c2w: np.ndarray, rows: int = 64, fov: float = FOV) -> np.ndarray:
    """Return a scene's square picture of a pose, (rows, rows, 3), rendered without the viewer."""
    focal = rows / 2 / math.tan(fov / 2)
    fxfycxcy = torch.tensor([[[focal, focal, rows / 2, rows / 2]]])
    state = scene.state
    assert state is not None
    image = scene.model.render(state, fxfycxcy, torch.from_numpy(c2w).float()[None, None], (rows, rows))[0, 0]
    return (image.movedim(0, -1).numpy() * 255).round().astype(np.uint8)


def middle(picture: np.ndarray, rows: int = 64) -> np.ndarray:
    """Return the square in the middle of a wide picture, reduced to `rows`."""
    h, w, _ = picture.shape
    return cv2.resize(picture[:, (w - h) // 2 : (w - h) // 2 + h], (rows, rows), interpolation=cv2.INTER_AREA)


def others_of(scene: ViewedScene) -> list[int]:
    """Return the views that are not inputs."""
    return [view for view in range(len(scene)) if view not in scene.inputs]


def photos_of(scene: ViewedScene, views: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the network is given for some views: image (1, v, 3, h, w), fxfycxcy (1, v, 4) and c2w (1, v, 4, 4)."""
    image, fxfycxcy = (torch.stack(part)[None] for part in zip(*map(scene.photo, views), strict=True))
    return image, fxfycxcy, torch.from_numpy(scene.c2w[views]).float()[None]


def assert_same_scene(found: SceneState | None, wanted: SceneState) -> None:
    """Compare two states of one scene, of which the first can grow."""
    assert found is not None
    assert found.sums is not None
    assert found.c2w.shape == wanted.c2w.shape
    assert distance(found, wanted) < ROUNDING


def distance(one: SceneState, other: SceneState) -> float:
    """Return the largest relative error of a tensor of a state."""
    pairs = [(a[name], b[name]) for a, b in zip(one.layers, other.layers, strict=True) for name in b]
    return max(relative_error(a, b) for a, b in pairs)
