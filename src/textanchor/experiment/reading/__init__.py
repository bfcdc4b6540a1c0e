"""What the records of a comparison say together: from records alone, without a model."""
