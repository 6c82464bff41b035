"""Scenes from catalogues to disk: which ones, what is wanted of each, how it is put together and signed for."""
