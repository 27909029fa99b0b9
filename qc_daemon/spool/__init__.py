"""The folder of received files: writing them, verifying them, and their access rights."""
