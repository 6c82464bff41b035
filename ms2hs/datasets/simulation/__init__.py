"""Simulated scenes with a known truth."""
