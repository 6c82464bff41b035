"""Multispectral scenes of every supported format, read as reflectance."""
