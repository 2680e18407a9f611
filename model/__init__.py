"""The network and what belongs to it; what people script against."""

from model.lact_lvsm import LaCTLVSM
from model.scene_state import SceneState

__all__ = ["LaCTLVSM", "SceneState"]
