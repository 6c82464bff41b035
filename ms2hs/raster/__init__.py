"""Pixels and places, in and out."""
