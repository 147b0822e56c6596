"""Packages that only some commands need: what is missing is named in one line, with the command that installs it."""

# the extra of pyproject.toml that brings a module
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
    """Return which package is missing and how to install it; None if it is no package of an extra."""
    package = (error.name or "").split(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return f"{package} is not installed: 'make env-{extra}', or python -m pip install -r requirements/{extra}.txt"
