"""Videos: faces followed from frame to frame, restored, and encoded anew."""
