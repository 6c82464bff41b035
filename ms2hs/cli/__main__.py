"""`python -m ms2hs.cli`."""

from ms2hs.cli import main

main()
