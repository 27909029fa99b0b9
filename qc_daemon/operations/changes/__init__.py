"""What accounts may change by pages and API, as commands do it: what would change, and doing it."""
