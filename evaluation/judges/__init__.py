"""Networks that read images: attributes, parts of a face, fit to a text, distance between two images."""
