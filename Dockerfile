# One image for everything of this project: the tracking server, training, and the service.
# The packages change seldom and the code often, so the code is the last layer: a change of it rebuilds in seconds.

FROM python:3.11.7-slim AS packages
RUN python -m venv /opt/venv
COPY requirements/server.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --requirement /tmp/requirements.txt \
    # what nothing here reads at run time: tests, sources in C, and the two hundred services of Amazon that are not S3
    && find /opt/venv -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && find /opt/venv \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.a' \) -delete \
    && find /opt/venv/lib/python3.11/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts -exec rm -rf {} + \
    # MLflow asks for the version of pip: what tells it stays
    && rm -rf /opt/venv/lib/python3.11/site-packages/pip /opt/venv/bin/pip*

FROM python:3.11.7-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends haproxy tini \
    && rm -rf /var/lib/apt/lists/* /var/log/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /data /state \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/site-packages/*
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet \
    HOME=/tmp
WORKDIR /app
COPY . .
USER app
ENTRYPOINT ["tini", "-g", "--"]
