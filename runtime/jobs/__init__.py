"""What a command does with files: which, where to, what is written beside, what is reported."""
