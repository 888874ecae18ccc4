"""The matrix of picture files: what each format's files hold, and how ours are judged."""
