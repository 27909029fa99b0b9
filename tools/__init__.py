"""Programs that rewrite files of this repository; they are not installed."""
