"""What numbers mean: proportions, charts, case mix, agreement, distances; no audit in them."""
