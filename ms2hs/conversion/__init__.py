"""Conversion of multispectral scenes to hyperspectral cubes: planning, pipeline, resuming, several scenes."""
