"""The sections of the reports of persons, devices, sites and exams."""
