"""Digests: a mail or a webhook's call that says that an audit is there, and where; nothing else."""
