"""Features of frozen image towers: computed once, kept, searched, and learnt from."""
