"""Trained networks applied to scenes: windows, batches, blending, quantisation on the device."""
