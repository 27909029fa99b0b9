"""NextGen-UIA: adapters for CLIP's image tower, and heads on its middle layers."""
