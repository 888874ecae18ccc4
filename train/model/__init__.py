"""The DIC network, the discriminator of DICGAN, and the losses."""
