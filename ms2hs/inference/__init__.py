"""A model applied to a scene: batches, devices and overlap blending."""
