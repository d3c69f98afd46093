"""How far to trust a model's answers: what is measured on images that it was not trained on, and kept with it."""
