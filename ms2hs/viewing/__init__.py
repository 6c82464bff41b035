"""Looking at a cube: pages for a browser, spectra of locations, spectral indices, copies in other formats."""
