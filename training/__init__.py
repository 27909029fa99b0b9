"""From data to trained parts, to a bundle, and how good it is."""
