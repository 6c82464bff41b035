"""Models that predict many bands from a few: the spectral prior, the masked autoencoder, and their weights files."""
