"""The small leaf that all stages share: contract, landmarks, console, files, progress.

Imports the standard library, NumPy and tqdm, and nothing else of ours.
"""
