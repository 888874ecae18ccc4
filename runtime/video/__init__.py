"""Videos: decode, track faces across frames, restore them, and encode the result."""
