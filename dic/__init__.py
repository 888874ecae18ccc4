"""What all stages share: contract, landmarks, engine files, console, file output, progress.

Depends on the standard library, NumPy and tqdm only; imports no other package of this project.
"""
