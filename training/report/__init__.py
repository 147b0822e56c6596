"""What a run says of a model: metrics, plots, mistakes, the card."""
