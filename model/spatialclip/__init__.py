"""SpatialCLIP: standard or non-standard view from image, text and layout."""
