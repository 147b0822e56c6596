"""GitHub's workflows against GitHub's schema, the Makefile, and what each step may know. GitHub itself is not asked."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_docs import TARGETS

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
LOADED = {path.name: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
MAKEFILE = (ROOT / "Makefile").read_text()
VARIABLES = set(re.findall(r"^(?:export )?([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))
TAGGED = "startsWith(github.ref, 'refs/tags/v')"
STEPS = [
    pytest.param(step, id=f"{name} {job} {number}")
    for name, workflow in LOADED.items()
    for job, told in workflow["jobs"].items()
    for number, step in enumerate(told["steps"])
]
each_workflow = pytest.mark.parametrize("workflow", LOADED.values(), ids=LOADED)


def check(path: Path) -> "subprocess.CompletedProcess[str]":
    """Check with the schema that the package brings, no network at hand."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    return subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_fits_the_schema(path: Path, tmp_path: Path) -> None:
    done = check(path)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / path.name
    broken.write_text(path.read_text().replace("runs-on:", "runs-at:", 1))
    assert "runs-at" in check(broken).stdout


@pytest.mark.parametrize("step", STEPS)
def test_a_step_calls_make_targets_that_exist(step: dict[str, Any]) -> None:
    """What is not `make` installs Debian's packages, or moves an image that make built."""
    for line in step.get("run", "").splitlines():
        for command in re.split(r"&&|\|\||[;|]", line):
            program, *words = shlex.split(command)
            if program != "make":
                assert program == "docker" or [program, *words][:2] == ["sudo", "apt-get"], command
                continue
            given = [word.split("=")[0] for word in words if "=" in word]
            targets = [word for word in words if "=" not in word]
            assert targets, command
            assert set(targets) <= TARGETS, command
            assert set(given) <= VARIABLES, command


@pytest.mark.parametrize("step", STEPS)
def test_a_step_knows_no_more_than_it_must(step: dict[str, Any]) -> None:
    assert "${{" not in step.get("run", ""), "what GitHub puts in is run as a command: pass it in env"
    if "uses" in step:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
    if step.get("uses", "").startswith("actions/checkout@"):
        assert step["with"]["persist-credentials"] is False, "else each later step could read the token"
    secret = re.findall(r"secrets\b|github\.token", str(step))
    assert len(secret) == (1 if step.get("run", "").startswith("docker login ") else 0)


@each_workflow
def test_a_workflow_may_only_read_the_code(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not {"pull_request_target", "workflow_run"} & workflow[True].keys()  # YAML 1.1 reads `on` as true
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60
        outside = {key: value for key, value in job.items() if key != "steps"}
        assert not re.search(r"secrets\b|github\.token", str([outside, workflow.get("env")]))
        assert job.get("permissions", {}) == ({"packages": "write"} if name == "push" else {})


def test_a_release_asks_the_image_before_it_pushes_it() -> None:
    release = LOADED["release.yml"]
    assert release["concurrency"] == {"group": "release", "cancel-in-progress": False}
    build, push = release["jobs"]["build"], release["jobs"]["push"]
    made = [step["run"].split()[1] for step in build["steps"] if step.get("run", "").startswith("make ")]
    assert made == ["run", "image", "image-smoke", "backup"]
    assert not [step for step in build["steps"] if "continue-on-error" in step]
    assert push["needs"] == "build"
    assert push["if"] == TAGGED
    assert not [step for step in build["steps"] if "docker push" in step.get("run", "")]
