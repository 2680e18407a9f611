"""Viewers of the bundled examples, and scenes for them."""

import math
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from config.rendering import DEFAULT_OBJECTS, DEFAULT_SCENE_WEIGHTS, DEFAULT_SCENES, DEFAULT_WEIGHTS
from data.dataset import SceneDataset
from data.poses import scene_frame
from data.scene_format import Scene
from data.view_selection import select_views
from model import LaCTLVSM, load_model
from model.viewer import Photos, ViewedScene

SIZE = (64, 64)
INPUTS = 6
FOV = math.radians(50)


def bundled_model(scenes: bool = False) -> LaCTLVSM:
    return load_model(DEFAULT_SCENE_WEIGHTS if scenes else DEFAULT_WEIGHTS, device="cpu")


def opened(scene: Scene, model: LaCTLVSM, normalised: bool = False) -> ViewedScene:
    """Return a scene with `INPUTS` inputs for the viewer."""
    c2w = np.stack([view.c2w for view in scene.views])

    def choose(number: int) -> list[int]:
        return select_views(c2w, num_input_views=number, num_target_views=0, method="spread")[0]

    moved = scene_frame(torch.from_numpy(c2w)[None]).matrix[0] if normalised else None
    return ViewedScene.of_photos(Photos(scene, SIZE, choose), model, scene.name, choose(INPUTS), moved)


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
