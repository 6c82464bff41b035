"""What turns a few bands into many. Knows spectra; never a file format of rasters."""
