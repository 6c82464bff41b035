"""From a scene to a hyperspectral cube."""
