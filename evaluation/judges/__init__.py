"""Networks that read images: what is shown (probe, parser), what a text says of it (CLIP), how far two images are apart."""
