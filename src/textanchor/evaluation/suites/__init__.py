"""The suites, one file each; `textanchor.evaluation.registry` knows them by name."""
