"""From a file's bytes to frames and the anatomy in them."""

from detector.no_network import quiet

# Before any module of ours imports ultralytics or transformers, which read the switches then.
quiet()
