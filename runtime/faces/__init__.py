"""Faces in pictures: detect, crop, restore, and blend into the picture."""
