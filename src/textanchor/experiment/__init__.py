"""Comparisons: a matrix of adaptation runs, one record for each, and what the records say together."""
