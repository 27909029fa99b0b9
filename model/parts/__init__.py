"""Parts: models of other families beside SpatialCLIP, in a bundle or in a folder of their own."""
