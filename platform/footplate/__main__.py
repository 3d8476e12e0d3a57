"""`python -m footplate` is `footplate`."""

from footplate.cli import main

main()
