# Prometheus of Debian's packages.
FROM python:3.11.7-slim
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
