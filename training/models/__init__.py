"""One module for each model that fits and exports it."""
