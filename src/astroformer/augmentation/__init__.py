"""How training images are varied: settings, what is drawn for each image, and batches made of it."""
