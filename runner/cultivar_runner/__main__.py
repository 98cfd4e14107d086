"""`python -m cultivar_runner`."""

from .cli import main

main()
