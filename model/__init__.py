"""The Python interface: the network, its scene states, and loading of weights and scenes."""

from model.interface import load_scene, show
from model.lact_lvsm import LaCTLVSM
from model.posed_images import PosedImages
from model.scene_state import SceneState
from model.weights.load import load_model

__all__ = ["LaCTLVSM", "PosedImages", "SceneState", "load_model", "load_scene", "show"]
