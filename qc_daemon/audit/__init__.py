"""Audits: what a lab's findings say of persons, devices and sites. The statistics are pure."""
