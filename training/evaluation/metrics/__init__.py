"""Figures of predictions against the truth, most with intervals."""
