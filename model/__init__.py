"""The Python interface: the network, its scene states, loading of weights and scenes, camera paths, videos, the viewer."""

import importlib
from typing import TYPE_CHECKING

from model.camera_path import CameraPath, flight, orbit, turntable
from model.lact_lvsm import LaCTLVSM
from model.posed_images import PosedImages
from model.scene_state import SceneState
from model.weights.load import load_model

if TYPE_CHECKING:
    from model.interface import load_scene, render_video, show, stream_scene

__all__ = [
    "CameraPath",
    "LaCTLVSM",
    "PosedImages",
    "SceneState",
    "flight",
    "load_model",
    "load_scene",
    "orbit",
    "render_video",
    "show",
    "stream_scene",
    "turntable",
]


def __getattr__(name: str) -> object:
    """Import what reads photos and encodes videos when it is first used: programs without these start faster."""
    if name in ("load_scene", "render_video", "show", "stream_scene"):
        return getattr(importlib.import_module("model.interface"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
