"""Serving engines to many clients by the Open Inference Protocol, version 2."""
