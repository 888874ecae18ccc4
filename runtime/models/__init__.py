"""Engines that the package ships, with the record of their training and figures."""
