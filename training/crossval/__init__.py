"""Cross-validation by near-duplicate group, and with one style left out."""
