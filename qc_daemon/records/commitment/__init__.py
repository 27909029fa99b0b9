"""Storage commitment: requests that were received (SCP) and sent (SCU)."""
