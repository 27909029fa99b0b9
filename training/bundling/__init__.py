"""From trained parts to a bundle: calibration, thresholds, outlier score, model card."""
