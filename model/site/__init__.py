"""Site calibration: what a hospital's own findings say about a bundle's probabilities there.

Pure: logits, labels and exams go in, a map of log odds and figures come out. `calibrate.py` puts
the parts together; `record.py` is what is stored, activated and applied.
"""
