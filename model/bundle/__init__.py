"""The bundle: every file that judges, and the manifest with their hashes."""
