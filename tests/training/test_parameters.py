"""The entry points, called with the commands that MLproject declares."""

import importlib
import shlex
from dataclasses import asdict

import click
import pytest
import yaml
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT
from training.settings import Settings

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def command(entry: str, values: dict[str, str]) -> tuple[click.Command, list[str]]:
    """Return the click command of an entry point and its arguments, as MLflow fills them in."""
    declared = ENTRY_POINTS[entry]
    defaults = {name: str(spec.get("default", "package")) for name, spec in declared["parameters"].items()}
    filled = {name: shlex.quote(value) for name, value in (defaults | values).items()}
    python, _, module, *arguments = shlex.split(declared["command"].format(**filled))
    assert python == "python"
    return importlib.import_module(module).main, arguments


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_has_help_for_every_parameter(entry: str) -> None:
    main, _ = command(entry, {})
    told = CliRunner().invoke(main, ["--help"])
    assert told.exit_code == 0
    for name in ENTRY_POINTS[entry]["parameters"]:
        assert f"--{name.replace('_', '-')}" in told.output


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_default_of_mlproject_is_accepted_and_the_modules_own(entry: str) -> None:
    main, arguments = command(entry, {})
    declared = main.make_context(entry, arguments).params
    needed = [name for name, spec in ENTRY_POINTS[entry]["parameters"].items() if "default" not in spec]
    required = [part for name in needed for part in (f"--{name}", "package")]
    assert main.make_context(entry, required).params == {
        name: (ROOT / value if name in ("out", "data") else value) for name, value in declared.items()
    }


def test_the_settings_are_those_of_mlproject() -> None:
    for entry in ("main", "train"):
        declared = {name: spec["default"] for name, spec in ENTRY_POINTS[entry]["parameters"].items()}
        assert {name: declared[name] for name in asdict(Settings())} == asdict(Settings())


@pytest.mark.parametrize(
    ("entry", "parameter", "says"),
    [
        ("main", "test_size=1.5", "'1.5' is not allowed; expected a number above 0 and below 1"),
        ("main", "test_size=nan", "'nan' is not allowed; expected a number above 0 and below 1"),
        ("main", "seed=-1", "'-1' is not allowed; expected a whole number from 0"),
        ("main", "ngram_max=9", "'9' is not allowed; expected a whole number from 1 to 8"),
        ("main", "min_df=2.5", "'2.5' is not allowed; expected a whole number from 1 up"),
        ("main", "C=0", "'0' is not allowed; expected a number from 1e-06 to 1000000.0"),
        ("main", "limit=many", "'many' is not allowed; expected a whole number from 0 up"),
        ("main", "register=maybe", "'maybe' is not one of 'yes', 'no'"),
        ("main", "promote=later", "'later' is not one of 'gated', 'always', 'never'"),
        ("main", "source=nothing.csv", "nothing.csv: no such file"),
        (
            "main",
            "model=bert",
            "model is 'bert'; expected ngram, hashing, embedding, transformer, stack, or path",
        ),
        ("main", "model=mine:a.b", "model is 'mine:a.b'; expected ngram"),
        ("train", "max_tokens=4", "'4' is not allowed; expected a whole number from 8 to 8192"),
        ("train", "head=svm", "'svm' is not one of 'mlp', 'logistic'"),
        ("train", "precision=int4", "'int4' is not one of 'auto', 'float32', 'int8'"),
        ("train", "learning_rate=0", "'0' is not allowed; expected a number from 1e-08 to 1"),
        ("ingest", "test_size=0", "expected a number above 0 and below 1"),
        ("train", "C=inf", "'inf' is not allowed; expected a number from 1e-06 to 1000000.0"),
        ("main", "limit=1e3", "'1e3' is not allowed; expected a whole number from 0 up"),
        ("train", "data=nothing.csv", "nothing.csv: no such file"),
        ("evaluate", "version=99", "has no version '99'"),
        ("promote", "version=99", "has no version '99'"),
        ("promote", "force=maybe", "'maybe' is not one of 'yes', 'no'"),
        ("rollback", "from=x", "'x' is not allowed; expected a whole number from 0 up"),
    ],
)
def test_a_wrong_parameter_is_one_line_and_a_failure(
    store: MlflowClient, entry: str, parameter: str, says: str
) -> None:
    name, _, value = parameter.partition("=")
    result = CliRunner().invoke(*command(entry, {name: value}))
    (line,) = [line for line in result.output.splitlines() if says in line]
    assert line.startswith("Error: ")
    assert result.output.count("Error") == 1
    assert "Usage" not in result.output
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert store.search_runs(["0"], "attributes.status = 'FINISHED'")[1:] == [], "no work was done"
