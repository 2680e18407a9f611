"""Evaluation of a network on scenes: views and poses of each, rendering, scores with baselines, speed."""
