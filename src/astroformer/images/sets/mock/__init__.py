"""How mock galaxies are drawn: the canvas, light profiles, the galaxies of each class, sky and telescope."""
