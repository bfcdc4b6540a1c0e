"""The geometry of a model on data, and the claims C1 to C3 as tests that can say no.

This layer stands above `training`, because two of the claims (rigidity, who moves) need a short joint tuning.
"""
