"""A lab's history of findings, made up from a seed, with what is wrong in it known: for audits."""

from training.phantom.history.write import write_history

__all__ = ["write_history"]
