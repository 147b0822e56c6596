"""The benchmark: what this project's way of serving costs and gives, measured beside its peers."""
