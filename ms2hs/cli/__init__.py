"""The command line."""

from ms2hs.cli.app import main

__all__ = ["main"]
