"""Scores of models beside the baselines."""
