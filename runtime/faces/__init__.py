"""Faces in pictures: found, cut out, restored, blended back."""
