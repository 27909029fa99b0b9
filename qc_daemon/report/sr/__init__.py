"""The structured report of an exam (Comprehensive 3D SR, TID 1500) and its parser."""
