"""The audit log: who did what to which object; a chain of hashes, and DICOM audit messages."""
