"""From labelled images to a trained classifier: recipe, augmentation, loop, run folder."""
