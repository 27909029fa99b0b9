"""Phantom simulator: first-trimester ultrasound pictures whose truth is known."""

from training.phantom.dataset import describe, truth_of, write_dataset, write_exams
from training.phantom.defects import APPLICABLE, FAILS, REQUIRED, Defect
from training.phantom.dicom import Patient, exam, exam_with_truth, to_dataset
from training.phantom.simulate import VIEWS, Phantom, make, make_cine

__all__ = [
    "APPLICABLE",
    "FAILS",
    "REQUIRED",
    "VIEWS",
    "Defect",
    "Patient",
    "Phantom",
    "describe",
    "exam",
    "exam_with_truth",
    "make",
    "make_cine",
    "to_dataset",
    "truth_of",
    "write_dataset",
    "write_exams",
]
