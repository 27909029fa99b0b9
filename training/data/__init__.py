"""The samples of a run: reading, splitting, preparing and varying them."""
