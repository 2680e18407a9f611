"""Suspicious cameras of scenes: what the format allows, but hardly anybody intends; found without opening an image."""
