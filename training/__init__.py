"""One module per pipeline step and per MLproject entry point."""
