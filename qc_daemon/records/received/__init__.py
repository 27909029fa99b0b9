"""What was received: instances, revisions, exams, performed procedure steps."""
