"""Review of findings by persons: what happened as values, what stands as a fold of that, and which
findings are drawn for a second reading. Pure: no database, no clock, no settings file."""
