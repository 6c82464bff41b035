"""Cloud-optimised GeoTIFFs written in one pass: `writer` comes first; block size and data type are in `encoding`."""
