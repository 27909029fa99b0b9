"""From detected structures to one sentence (BioGPT under a grammar)."""
