# What speaks like S3 and forgets all when it ends.
FROM python:3.11.7-slim
RUN pip install --no-cache-dir "moto[s3]==5.2.5" flask flask-cors
USER nobody
ENTRYPOINT ["moto_server", "--host", "0.0.0.0", "--port", "9000"]
