"""The network and what belongs to it; what people script against."""

from model.lact_lvsm import LaCTLVSM
from model.scene_state import SceneState
from model.weights.load import load_model

__all__ = ["LaCTLVSM", "SceneState", "load_model"]
