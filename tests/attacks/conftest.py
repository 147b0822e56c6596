"""What the attacks share: a follower as the tests of inference have it, and keys to sign with."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.inference.conftest import service, versions

__all__ = ["service", "versions"]  # fixtures


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Files with a private key and its public one."""
    made = generate_private_key(SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
