"""Checks of `doctor` on what surrounds the service: disk, clock, certificates, mail, peers."""
