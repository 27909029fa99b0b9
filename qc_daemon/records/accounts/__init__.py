"""Accounts, their sessions and tokens, and who looked at what."""
