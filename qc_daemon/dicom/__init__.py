"""The parts of the DICOM Standard that stages share: association, status, TLS, text."""
