"""The only room that knows MLflow's model registry: stages, alias, audit trail, digests."""
