"""The Python interface: the network, its scene states, and loading of weights."""

from model.lact_lvsm import LaCTLVSM
from model.scene_state import SceneState
from model.weights.load import load_model

__all__ = ["LaCTLVSM", "SceneState", "load_model"]
