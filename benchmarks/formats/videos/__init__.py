"""The matrix of video files."""
