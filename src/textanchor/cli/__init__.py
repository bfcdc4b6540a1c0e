"""The command line: one file per verb, heavy imports inside the functions, so that `--help` is quick."""
