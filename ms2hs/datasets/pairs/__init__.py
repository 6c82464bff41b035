"""Pairs: a multispectral and a hyperspectral measurement of one location on one grid."""
