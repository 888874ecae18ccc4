"""The network of the paper, its critic, and the losses."""
