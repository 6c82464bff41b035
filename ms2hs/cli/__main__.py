"""`python -m ms2hs.cli`."""

from ms2hs.cli.app import main

main()
