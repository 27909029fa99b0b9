"""What an operator asks or orders; command line and web call these."""
