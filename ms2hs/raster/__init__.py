"""Rasters on a pixel grid: reading, resampling, tiling, cubes and quicklooks."""
