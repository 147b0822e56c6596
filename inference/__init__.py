"""One module per way of using a registered version. It meets the model through MLflow only."""
