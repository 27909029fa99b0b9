"""The anatomy detector (ultralytics YOLO) and its merging with the mirror image."""
