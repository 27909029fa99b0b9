"""What an operator does about a patient as a whole."""
