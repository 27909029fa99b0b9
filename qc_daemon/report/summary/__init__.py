"""The summary of an exam in plain words: page, PDF and languages."""
