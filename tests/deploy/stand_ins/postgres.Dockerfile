# PostgreSQL of Debian's packages, taking the settings that Docker's own image of it takes.
FROM python:3.11.7-slim
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner postgres /var/lib/postgresql/data /var/run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
USER postgres
ENTRYPOINT ["sh", "-ec", "\
    cd /var/lib/postgresql/data; \
    if [ ! -s data/PG_VERSION ]; then \
        printenv POSTGRES_PASSWORD > /tmp/word; \
        initdb --pgdata data --username \"$POSTGRES_USER\" --pwfile /tmp/word --auth scram-sha-256 --encoding UTF8; \
        echo 'host all all all scram-sha-256' >> data/pg_hba.conf; \
        echo \"CREATE DATABASE $POSTGRES_DB\" | postgres --single -D data postgres; \
    fi; \
    exec postgres -D data -c listen_addresses='*'"]
