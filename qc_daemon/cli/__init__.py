"""The command line: commands, output formats and the demo."""
