"""Layers of the network: their contract, one family a file, the registry of types, and the blocks that they make up."""

from model.layers.block import Addresses, Block, Layer, LocalLayer, MixingLayer
from model.layers.contract import State
from model.layers.fast_weight import FastWeight
from model.layers.registry import BLOCKS, build_layer

__all__ = ["BLOCKS", "Addresses", "Block", "FastWeight", "Layer", "LocalLayer", "MixingLayer", "State", "build_layer"]
