"""The dual-branch classifier: which plane of the fetus a frame shows, read at two scales."""
