"""A small StyleGAN2-style generator of drawn faces: its networks, what its z means, its training."""
