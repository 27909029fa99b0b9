"""The folder of received files: written once, private, verified before every use."""
