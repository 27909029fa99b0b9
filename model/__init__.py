"""From frames to findings: SpatialCLIP, the describer, criteria, calibration, bundles."""

from detector.no_network import quiet

quiet()
