"""Training data: sources, cropping, augmentation and training pairs."""
