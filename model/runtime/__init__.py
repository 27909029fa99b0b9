"""How the networks run: by PyTorch as they are, or compiled for this machine."""
