"""What is told of an exam: the structured report, overlay images and the exam page."""
