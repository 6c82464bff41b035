"""Search, selection and download of Sentinel-2 and HLS scenes."""
