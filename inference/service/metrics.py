"""What Prometheus is told of a follower."""

from prometheus_client import Counter, Gauge

from inference.service.slots import Slot

WANTED = Gauge("sentiment_version_wanted", "Version in Production, 0 for none")
SERVED = Gauge("sentiment_version_served", "Version that gets the requests, 0 for none")
CANARY = Gauge("sentiment_canary_version", "Version that gets a share of the requests, 0 for none")
PERCENT = Gauge("sentiment_canary_percent", "That share")
READY = Gauge("sentiment_ready", "Whether a version serves")
REGISTRY = Gauge("sentiment_registry_up", "Whether the registry answered last time")
REFUSALS = Gauge("sentiment_refused", "1 for a version that is wanted and failed to come up", ["version"])
SWITCHES = Counter("sentiment_switches", "Times that all requests were sent to another server")
STARTS = Counter("sentiment_server_starts", "Versions that were brought up, or failed to be")
FAILURES = Counter("sentiment_start_failures", "Versions that failed to come up")
DEATHS = Counter("sentiment_server_deaths", "Model servers that died after they had come up")
STOPS = Counter("sentiment_canary_stops", "Canaries that were stopped because they were grossly worse")


def show(served: int | None, canary: Slot | None, registry_answers: bool, wanted: int | None) -> None:
    """Set the gauges of how things stand now."""
    READY.set(served is not None)
    SERVED.set(served or 0)
    CANARY.set(canary.version if canary else 0)
    PERCENT.set(canary.percent if canary else 0)
    REGISTRY.set(registry_answers)
    WANTED.set(wanted or 0)
