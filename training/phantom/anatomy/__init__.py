"""What each view shows, drawn in its own units: one module a view."""
