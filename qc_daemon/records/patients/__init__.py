"""What concerns a patient as a whole, over all exams."""
