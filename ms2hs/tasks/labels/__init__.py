"""Readers of labelled data, and splits of labelled samples."""
