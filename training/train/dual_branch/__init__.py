"""Train the dual-branch classifier of planes."""
