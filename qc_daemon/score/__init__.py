"""Scoring: decode in a child process, judge, store findings."""
