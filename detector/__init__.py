"""From a file's bytes to frames and the anatomy in them."""

from detector.no_network import quiet

# This comes before any import of ultralytics or transformers, which read these switches once.
quiet()
