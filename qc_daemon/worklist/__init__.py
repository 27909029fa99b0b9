"""What a modality worklist knows of an exam, where its images do not say it."""
