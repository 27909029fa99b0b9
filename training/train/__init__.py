"""The trainers: detector, describer and SpatialCLIP."""
