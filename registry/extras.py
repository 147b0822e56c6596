"""Optional packages: name a missing one in one line, with the command that installs it."""

# module: the extra of pyproject.toml that installs it
EXTRAS = {
    "boto3": "s3",
    "cryptography": "sign",
    "cyclonedx": "image",
    "model_signing": "sign",
    "onnxruntime": "onnx",
    "packageurl": "image",
    "prometheus_client": "follow",
    "psycopg2": "postgres",
    "tokenizers": "onnx",
}


def how_to_install(error: ImportError) -> str | None:
    """Return a message that says what is missing and how to install it, or None if no extra provides it."""
    package = (error.name or "").split(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return f"the Python module {package} is missing: run 'make env-{extra}', or python -m pip install -r requirements/{extra}.txt"
