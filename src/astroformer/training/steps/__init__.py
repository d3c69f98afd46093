"""One training step: forward and backward pass, and what follows them."""
