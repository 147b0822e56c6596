"""A version is signed where it is promoted, and refused where its signature does not hold."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from mlflow.tracking import MlflowClient

from registry.digests import digests
from registry.errors import RegistryError, VerificationError
from registry.signatures import SIGNATURE
from registry.store import MODEL_NAME
from registry.versions import fetch, find, register
from training.promote import promote
from training.train import Candidate

pytestmark = pytest.mark.medium


def make_keys(folder: Path, password: bytes | None = None) -> tuple[str, str]:
    folder.mkdir()
    made = generate_private_key(SECP256R1())
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A public key; the private one is set for who promotes."""
    private, public = make_keys(tmp_path / "keys")
    monkeypatch.setenv("SIGNING_KEY", private)
    return public


@pytest.fixture
def signed(
    store: MlflowClient, candidate: Candidate, public: str, monkeypatch: pytest.MonkeyPatch
) -> MlflowClient:
    """Version 1, promoted and signed; signatures are asked for."""
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    promote(store, 1, force=True)
    monkeypatch.delenv("SIGNING_KEY")
    monkeypatch.setenv("VERIFYING_KEY", public)
    return store


def test_what_was_promoted_with_a_key_is_fetched_with_the_other(signed: MlflowClient, tmp_path: Path) -> None:
    copy = fetch(find(signed, "Production"), tmp_path / "copy")
    assert (copy / "MLmodel").exists()


def test_where_no_key_is_set_nothing_is_asked(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    promote(store, 1, force=True)
    assert SIGNATURE not in find(store, 1).tags
    fetch(find(store, 1), tmp_path / "copy")


def test_a_version_in_production_is_signed_by_promoting_it_again(
    store: MlflowClient, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    promote(store, 1, force=True)
    private, public = make_keys(tmp_path / "keys")
    monkeypatch.setenv("VERIFYING_KEY", public)
    with pytest.raises(VerificationError, match="version 1 is not signed, and VERIFYING_KEY is set"):
        fetch(find(store, 1), tmp_path / "copy")
    with pytest.raises(VerificationError, match="promote it where SIGNING_KEY is set"):
        promote(store, 1, force=True)
    monkeypatch.setenv("SIGNING_KEY", private)
    promote(store, 1)
    fetch(find(store, 1), tmp_path / "another")


def test_a_refused_version_is_not_signed(store: MlflowClient, candidate: Candidate, public: str) -> None:
    tags = candidate.tags | {"rolled_back": "yesterday"}
    register(store, candidate.model_uri, candidate.run_id, tags, candidate.description)
    with pytest.raises(RegistryError, match="was rolled back"):
        promote(store, 1)
    assert SIGNATURE not in find(store, 1).tags


def forged(signed: MlflowClient, folder: Path) -> str:
    """A changed copy of version 1 under version 2, with digests that fit it."""
    good = find(signed, 1)
    copy = fetch(good, folder)
    (copy / "entry.py").write_text("raise SystemExit('forged')")
    made = signed.create_model_version(MODEL_NAME, str(copy), good.run_id, tags=good.tags | digests(copy))
    return str(made.version)


def test_a_signature_of_other_files_does_not_hold(signed: MlflowClient, tmp_path: Path) -> None:
    version = find(signed, forged(signed, tmp_path / "forged"))
    assert version.tags[SIGNATURE] == find(signed, 1).tags[SIGNATURE]
    with pytest.raises(
        VerificationError, match=r"version 2 is not signed as VERIFYING_KEY=.*Signature mismatch"
    ):
        fetch(version, tmp_path / "copy")


def test_the_key_of_somebody_else_does_not_hold(
    signed: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = forged(signed, tmp_path / "forged")
    ours = os.environ.pop("VERIFYING_KEY")
    theirs, _ = make_keys(tmp_path / "theirs")
    monkeypatch.setenv("SIGNING_KEY", theirs)
    from registry.signatures import sign

    signature = sign(tmp_path / "forged")
    assert signature
    signed.set_model_version_tag(MODEL_NAME, number, SIGNATURE, signature)
    monkeypatch.setenv("VERIFYING_KEY", ours)
    with pytest.raises(VerificationError, match="version 2 is not signed as VERIFYING_KEY="):
        fetch(find(signed, number), tmp_path / "copy")


def without_signatures(told: str) -> str:
    bundle = json.loads(told)
    bundle["dsseEnvelope"]["signatures"] = []
    return json.dumps(bundle)


def with_another_statement(told: str) -> str:
    bundle = json.loads(told)
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["serialization"]["ignore_paths"] += ["entry.py"]
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(bundle)


BROKEN: dict[str, Callable[[str], str]] = {
    "an empty object": lambda _: "{}",
    "null": lambda _: "null",
    "no JSON": lambda _: "yes",
    "the half of it": lambda told: told[: len(told) // 2],
    "another number": lambda told: told.replace('"sig":"M', '"sig":"N'),
    "no signature": without_signatures,
    "another statement": with_another_statement,
}


def test_a_broken_signature_is_one_clear_refusal(signed: MlflowClient, tmp_path: Path) -> None:
    good = find(signed, 1).tags[SIGNATURE]
    for kind, change in BROKEN.items():
        told = change(good)
        assert told != good, kind
        signed.set_model_version_tag(MODEL_NAME, "1", SIGNATURE, told)
        with pytest.raises(
            VerificationError, match=r"version 1 is not signed as VERIFYING_KEY=.*; do not load it"
        ):
            fetch(find(signed, 1), tmp_path / kind)


@pytest.mark.parametrize("variable", ["SIGNING_KEY", "VERIFYING_KEY"])
@pytest.mark.parametrize(
    "content", [None, "", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_a_key_that_cannot_be_used_is_named_and_nothing_is_promoted(
    store: MlflowClient,
    candidate: Candidate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    content: str | None,
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    file = tmp_path / "some key"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(RegistryError, match=f"{variable}=.*some key is not a key that can be used"):
        promote(store, 1, force=True)
    assert find(store, 1).stage == "None"


def test_a_key_with_a_password(
    store: MlflowClient, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    private, public = make_keys(tmp_path / "keys", b"long words")
    monkeypatch.setenv("SIGNING_KEY", private)
    with pytest.raises(RegistryError, match="is not a key that can be used"):
        promote(store, 1, force=True)
    monkeypatch.setenv("SIGNING_KEY_PASSWORD", "long words")
    promote(store, 1, force=True)
    monkeypatch.setenv("VERIFYING_KEY", public)
    fetch(find(store, 1), tmp_path / "copy")


@pytest.mark.large
def test_the_keys_that_the_page_has_openssl_make(tmp_path: Path, signed: MlflowClient) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("openssl ")]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    os.environ["VERIFYING_KEY"] = str(tmp_path / "verifying.pem")
    os.environ["SIGNING_KEY"] = str(tmp_path / "signing.pem")
    try:
        promote(signed, 1)
        fetch(find(signed, 1), tmp_path / "copy")
    finally:
        del os.environ["SIGNING_KEY"]
