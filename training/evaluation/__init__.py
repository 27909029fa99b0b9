"""How good a bundle is: figures with intervals, plots and the report."""
