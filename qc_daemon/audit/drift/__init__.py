"""Whether scores, boxes and pictures of a device or site have changed, and since when."""
