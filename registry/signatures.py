"""Signatures of versions: OpenSSF model signing, with an elliptic-curve key of the user's own.

Digests stand in the registry, so they guard the artifact store alone. A signature also guards against
whoever can write the registry: who verifies needs the public key from elsewhere.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from registry.digests import WRITTEN_BY_MLFLOW_AT_LOAD
from registry.errors import RegistryError, VerificationError
from registry.extras import how_to_install

SIGNATURE = "signature"  # a tag of the version
SIGNING, PASSWORD, VERIFYING = "SIGNING_KEY", "SIGNING_KEY_PASSWORD", "VERIFYING_KEY"


def key(variable: str) -> Path | None:
    """Return the file of a key that an environment variable names, None if it is not set.

    Raises
    ------
    RegistryError
        If it is not a key in PEM, or what signs is not installed.
    """
    named = os.environ.get(variable)
    if not named:
        return None
    try:
        import model_signing  # noqa: F401 (here, as it takes half a second)
        from cryptography.hazmat.primitives import serialization

        content = Path(named).read_bytes()
        if variable == VERIFYING:
            serialization.load_pem_public_key(content)
        else:
            serialization.load_pem_private_key(content, _password())
    except ImportError as error:
        raise RegistryError(f"{variable} is set, and {how_to_install(error) or error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(f"{variable}={named} is not a key that can be used: {error}") from None
    return Path(named)


def sign(copy: Path) -> str | None:
    """Return the signature of a verified copy by the key that ``SIGNING_KEY`` names, None if it names none.

    Raises
    ------
    RegistryError
        If the key cannot be used.
    """
    private = key(SIGNING)
    if private is None:
        return None
    from model_signing import signing

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "signature.json")
        try:
            signer = signing.Config().use_elliptic_key_signer(private_key=private, password=_password())
            signer.set_hashing_config(_hashing()).sign(copy, file)
        except Exception as error:  # what the library and what is below it raise
            raise RegistryError(f"{SIGNING}={private} does not sign: {error}") from None
        return file.read_text()


def check_signature(signature: str | None, copy: Path, where: str) -> None:
    """Refuse a copy that is not signed by the owner of the key that ``VERIFYING_KEY`` names, if it names one.

    Parameters
    ----------
    signature : str or None
        What :func:`sign` returned.
    copy : Path
        The files.
    where : str
        Which version they are of, for the message.

    Raises
    ------
    VerificationError
        If it is missing, by another key, or of other files.
    RegistryError
        If the key cannot be used.
    """
    public = key(VERIFYING)
    if public is None:
        return
    if signature is None:
        raise VerificationError(
            f"{where} is not signed, and {VERIFYING} is set; promote it where {SIGNING} is set"
        )
    from model_signing import verifying

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "signature.json")
        file.write_text(signature)
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
            verifier.set_hashing_config(_hashing()).verify(copy, file)
        except (
            Exception
        ) as error:  # of the library, of protobuf, of cryptography: whatever a forged one brings about
            raise VerificationError(
                f"{where} is not signed as {VERIFYING}={public} asks ({type(error).__name__}: {str(error)[:200]}); "
                "do not load it"
            ) from None


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[WRITTEN_BY_MLFLOW_AT_LOAD], ignore_git_paths=False)


def _password() -> Any:
    # model-signing declares a str and hands it on to what wants bytes
    return (os.environ.get(PASSWORD) or "").encode() or None
