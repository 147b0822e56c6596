"""`mlflow models serve` that follows Production."""
