"""Faces to train on: where they come from, how they are cut, varied and paired."""
