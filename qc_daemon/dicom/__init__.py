"""What all stages share of the DICOM Standard. No database."""
