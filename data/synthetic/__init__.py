"""Endless multi-view training data: procedural objects and scenes, rendered on demand.

A scene is a pure function of (kind, seed, index): its numbers come from a numpy generator, and only rounding in the renderer
depends on the machine. Training uses seeds below `FIRST_HELD_OUT_SEED`; examples and tests of a trained model use the others.
"""

from data.synthetic.batch import FIRST_HELD_OUT_SEED, KINDS, describe, synthetic_batch

__all__ = ["FIRST_HELD_OUT_SEED", "KINDS", "describe", "synthetic_batch"]
