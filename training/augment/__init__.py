"""What augmentation changes: the scanner's style and burned-in annotations."""
