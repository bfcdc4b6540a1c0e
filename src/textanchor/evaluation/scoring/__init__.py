"""How a model is asked: prompts, candidates by their likelihood, generated answers and how they are read."""
