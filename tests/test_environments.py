"""The environments: every file of pins follows from pyproject.toml, and whoever installs one gets the same packages."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from registry.extras import EXTRAS as MODULES
from tests.conftest import ROOT, SKIPS

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PYPROJECT["dependency-groups"]
FILES = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
MAKEFILE = (ROOT / "Makefile").read_text()
COMPILED = re.search(r"^EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)
TOGETHER = COMPILED[1].split() if COMPILED else []  # in requirements/all.txt
OPERATORS = {
    "prometheus-client",
    "cyclonedx-python-lib",
    "packageurl-python",
    "boto3",
    "psycopg2-binary",
    "moto",
}
TESTERS = {"pytest", "mypy", "ruff", "hypothesis"}


def chosen(extra: str) -> set[Requirement]:
    """The requirements that pyproject.toml lists for an extra, with those of extras that it names."""
    found = set()
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == PYPROJECT["project"]["name"]:
            found |= {one for name in requirement.extras for one in chosen(name)}
        else:
            found.add(requirement)
    return found


def expected(file: str) -> set[Requirement]:
    """The direct requirements of a file of pins."""
    if file in GROUPS:
        return {Requirement(line) for line in GROUPS[file]}
    direct = {Requirement(line) for line in PYPROJECT["project"]["dependencies"]}
    extras = TOGETHER if file == "all" else [] if file == "run" else [file]
    return direct.union(*map(chosen, extras))


def pins(file: str) -> dict[NormalizedName, tuple[Requirement, str]]:
    """The pins of a file by name, each with what uv says it is there for."""
    found: dict[NormalizedName, tuple[Requirement, str]] = {}
    for line in (ROOT / "requirements" / f"{file}.txt").read_text().splitlines():
        if not line.startswith("#"):
            text, why = re.split(r"\s+# via ", line)
            if "python_full_version >= '3.12'" in text:
                continue  # uv compiles for later Pythons too
            found[canonicalize_name(Requirement(text).name)] = (Requirement(text), why)
    return found


def test_each_extra_has_its_file() -> None:
    assert set(FILES) == {"all", "run", *EXTRAS, *GROUPS}
    assert set(TOGETHER) == set(EXTRAS) - {"bench"}


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_pins_follows_from_pyproject(file: str) -> None:
    """What pyproject.toml lists stands there, as it is listed; and nothing else is there for its own sake."""
    found, wanted = pins(file), expected(file)
    for requirement in wanted:
        pin, _ = found[canonicalize_name(requirement.name)]
        assert pin.specifier == requirement.specifier, "run 'make lock'"
    direct = {name for name, (_, why) in found.items() if "pyproject.toml" in why}
    assert direct == {canonicalize_name(requirement.name) for requirement in wanted}, "run 'make lock'"
    for name, (_, why) in found.items():
        users = [user for user in why.split(", ") if not user.startswith("-c ")]
        assert users, name
        for user in users:
            assert "pyproject.toml" in user or canonicalize_name(user) in found, (name, user)


@pytest.mark.parametrize("file", sorted(set(TOGETHER) | {"run"}))
def test_environments_agree_on_every_version(file: str) -> None:
    """One is installed on top of the other."""
    everything = pins("all")
    for name, (pin, _) in pins(file).items():
        assert pin.specifier == everything[name][0].specifier, name


@pytest.mark.parametrize("file", FILES)
def test_every_package_is_pinned_exactly(file: str) -> None:
    for pin, _ in pins(file).values():
        assert re.fullmatch(r"==\d[\w.]*", str(pin.specifier)), pin


def test_a_peer_reads_the_pipelines_with_our_versions() -> None:
    ours = pins("run")
    for name in ("cloudpickle", "joblib", "numpy", "pandas", "scikit-learn", "scipy"):
        assert (
            pins("bench-mlserver")[canonicalize_name(name)][0].specifier
            == ours[canonicalize_name(name)][0].specifier
        )


def test_a_training_installs_nothing_of_an_operator_a_release_or_a_test() -> None:
    assert not pins("run").keys() & (OPERATORS | TESTERS)
    assert not pins("server").keys() & TESTERS
    assert not pins("test").keys() & {"moto", "mypy", "ruff", "torch", "pyspark"}


def test_what_mlflow_conda_docker_and_make_install_are_those_files() -> None:
    python_env = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    (pip,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    assert pip == python_env["dependencies"] == ["-r requirements/run.txt"]
    assert f"python={python_env['python']}" in conda["dependencies"]
    assert yaml.safe_load((ROOT / "MLproject").read_text())["python_env"] == "python_env.yaml"
    assert f"--python-version {python_env['python']}" in MAKEFILE
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM python:(\S+?)-slim", dockerfile, re.MULTILINE)) == {python_env["python"]}
    assert re.findall(r"requirements/\S+\.txt", dockerfile) == ["requirements/server.txt"]
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        steps = [
            step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]
        ]
        assert {s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", "")} == {
            python_env["python"]
        }
        assert "pip install" not in workflow.read_text()


def test_no_file_names_a_file_of_pins_that_is_not_there() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if not name.endswith((".json", ".png", "CHANGELOG.md")) and (ROOT / name).is_file():
            for stem in re.findall(r"requirements/([\w-]+)\.txt", (ROOT / name).read_text()):
                assert stem in FILES, (name, stem)


def test_a_missing_package_names_an_extra_that_has_it() -> None:
    brings = {
        "cryptography": "model-signing",
        "cyclonedx": "cyclonedx-python-lib",
        "packageurl": "packageurl-python",
        "psycopg2": "psycopg2-binary",
    }
    for module, extra in MODULES.items():
        package = brings.get(module, module).replace("_", "-")
        assert package in {canonicalize_name(one.name) for one in chosen(extra)}, module


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["inference.service.follow"], "prometheus_client"),
        (["inference.image", "build", "name:tag"], "cyclonedx"),
    ],
)
def test_a_command_without_its_package_says_how_to_install_it(command: list[str], module: str) -> None:
    run = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv = {command!r}; runpy.run_module({command[0]!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert f"Error: the Python module {module} is missing: run 'make env-{MODULES[module]}'" in line
    assert f"requirements/{MODULES[module]}.txt" in line


TEST_ALL = {"boto3", "moto", "psycopg2", "flask_wtf", "pyspark", "torch", "transformers", "mypy"}


@pytest.mark.parametrize("room", ["tests", "data", "inference", "registry", "sentiment_model", "spark"])
def test_nothing_is_imported_at_collection_that_make_test_does_not_install(room: str) -> None:
    """A test module that needs more imports it by ``pytest.importorskip`` or within a test."""
    for path in (ROOT / room).rglob("*.py"):
        if path.relative_to(ROOT).as_posix() in (
            "inference/batch/spark.py",
        ):  # which imports PySpark, and is imported where it is
            continue
        for node in ast.parse(path.read_text()).body:
            if "importorskip" in ast.unparse(node) and isinstance(node, ast.Assign | ast.Expr):
                break  # what follows is imported where it is installed
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & TEST_ALL, path


def test_a_full_run_of_the_workflow_skips_no_mark() -> None:
    """Each mark that skips where something is missing has its installation in the job ``full``."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    full: list[dict[str, Any]] = workflow["jobs"]["full"]["steps"]
    told = " ".join(step.get("run", "") for step in full)
    ci = (ROOT / ".ci" / "run").read_text()
    for mark, install in SKIPS.items():
        assert install.split()[-1] in told, mark
        assert install.split()[-1] in ci, mark
    for package in ("haproxy", "prometheus", "postgresql", "openjdk-17-jre-headless"):
        assert package in told
        assert package in ci
    marks = [line.split(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert set(marks) == {"medium", "large", "docker", "haproxy", "real_models", *SKIPS}


@pytest.mark.large
def test_uv_and_pip_install_the_same(tmp_path: Path) -> None:
    """From the same file of pins."""
    lists = []
    for name, install in {
        "uv": ["uv", "pip", "install", "--quiet", "--python", "{python}", "-r"],
        # which would compile every module, for minutes
        "pip": [
            "{python}",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
            "-r",
        ],
    }.items():
        if shutil.which(install[0]) is None and name == "uv":
            pytest.skip("uv is not installed")
        venv = tmp_path / name
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        python = str(venv / "bin" / "python")
        command = [word.format(python=python) for word in install]
        subprocess.run([*command, str(ROOT / "requirements" / "run.txt")], check=True)
        ask = "import importlib.metadata as m; print(*sorted(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
        lists.append(subprocess.check_output([python, "-c", ask], text=True))
    assert lists[0] == lists[1]
    installed = {canonicalize_name(line.split("==")[0]) for line in lists[0].split()}
    assert installed - {"pip", "setuptools"} <= pins("run").keys(), "nothing but what is pinned"


@pytest.mark.large
def test_make_lock_has_nothing_to_do(tmp_path: Path) -> None:
    """Compiled again from pyproject.toml, with the index asked, every file is the one that is there."""
    for name in ("pyproject.toml", "Makefile"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    subprocess.run(["make", "--silent", "lock", "-o", "env"], cwd=tmp_path, check=True)
    for file in FILES:
        name = f"requirements/{file}.txt"
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), "run 'make lock' and commit"
