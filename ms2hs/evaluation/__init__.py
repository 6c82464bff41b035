"""Scores of baselines, the spectral prior and models on pairs, cubes and converted cubes."""
