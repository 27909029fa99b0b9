"""A lab's history of findings, made up from a seed, with what is wrong in it known: for audits."""

from training.phantom.history.write import make_history, write_history

__all__ = ["make_history", "write_history"]
