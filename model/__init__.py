"""From frames to findings: SpatialCLIP, the describer, criteria, calibration, bundles."""

from detector.offline import quiet

quiet()
