"""The Python interface: the network, its scene states, loading of weights and scenes, camera paths, videos, the viewer."""

from model.camera_path import CameraPath, flight, orbit, turntable
from model.interface import load_scene, render_video, show
from model.lact_lvsm import LaCTLVSM
from model.posed_images import PosedImages
from model.scene_state import SceneState
from model.weights.load import load_model

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
    "turntable",
]
