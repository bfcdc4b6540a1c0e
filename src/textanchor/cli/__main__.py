"""`python -m textanchor.cli`."""

from textanchor.cli.main import main

main()
