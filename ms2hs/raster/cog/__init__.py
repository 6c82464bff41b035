"""Cloud-optimised GeoTIFFs written in one pass. `writer` uses all other modules; `encoding` has block size and type."""
