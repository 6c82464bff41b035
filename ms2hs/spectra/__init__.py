"""Wavelengths and what is measured at them. Imports nothing of ours but errors."""
