"""What the tests of this folder share: a follower as the tests of inference have it, and the engine."""

import shutil
import subprocess

import pytest

from tests.inference.conftest import service, versions

__all__ = ["service", "versions"]  # fixtures


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine; without one the test is skipped."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers: start one (dockerd, or Docker Desktop)")
