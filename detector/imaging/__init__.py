"""Reading pictures: DICOM and plain files to RGB frames and their tissue regions."""
