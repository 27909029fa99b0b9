"""Tune FetalCLIP by captions, and teach a small CLIP what it knows."""
