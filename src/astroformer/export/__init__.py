"""A trained model as one graph that other programs run: raw pixels in, calibrated probabilities out."""
