"""The job queue and the leases of its jobs."""
