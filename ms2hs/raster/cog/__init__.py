"""Cloud-optimised GeoTIFFs, written in one pass."""
