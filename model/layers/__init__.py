"""Network layers: contract, one family per file, registry of types, and the blocks built from them."""

from model.layers.block import Addresses, Block, Layer, LocalLayer, MixingLayer
from model.layers.contract import State, Sums
from model.layers.fast_weight import FastWeight
from model.layers.registry import BLOCKS, build_layer

__all__ = ["BLOCKS", "Addresses", "Block", "FastWeight", "Layer", "LocalLayer", "MixingLayer", "State", "Sums", "build_layer"]
