"""Hyperspectral cubes of every supported format."""
