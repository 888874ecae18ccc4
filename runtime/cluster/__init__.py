"""What runs on Ray: the server as a Serve deployment, and batches on many machines."""
