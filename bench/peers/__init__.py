"""The servers that people write by hand, each as its own documentation shows it."""
