"""Pictures in and out, as files and as arrays, and their exact shrinking."""
