"""Train heads and adapters of NextGen-UIA."""
