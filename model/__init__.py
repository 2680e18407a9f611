"""The network and what belongs to it; what people script against."""

from model.lact_lvsm import LaCTLVSM
from model.load import load_model
from model.scene_state import SceneState

__all__ = ["LaCTLVSM", "SceneState", "load_model"]
