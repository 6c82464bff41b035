"""Hyperspectral products from STAC servers: search, reading by byte ranges, and download as cubes."""
