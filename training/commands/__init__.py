"""Verbs of `qc-model` that `training/cli.py` registers: a module for each noun."""
