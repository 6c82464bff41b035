"""Multispectral scenes in, hyperspectral scenes out."""
