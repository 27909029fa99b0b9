"""The criteria of a view, judged from boxes and grey levels."""
