"""The other DICOM objects of an exam: overlay, key objects, encapsulated PDF."""
