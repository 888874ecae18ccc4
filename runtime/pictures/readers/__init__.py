"""Readers of picture formats: each tells the layout from the file's own tags, and refuses by name
what it does not read right (docs/reference/formats.md).
"""
