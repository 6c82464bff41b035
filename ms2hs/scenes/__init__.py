"""Multispectral scenes of every supported layout, read as reflectance."""
