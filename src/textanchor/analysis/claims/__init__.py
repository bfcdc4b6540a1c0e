"""Claims: each a function of numbers that were measured, with a null, a margin declared beforehand and a verdict."""
