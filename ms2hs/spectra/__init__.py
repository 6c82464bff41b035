"""Spectra and sensors: wavelengths, response functions, spectral libraries, metrics and indices."""
