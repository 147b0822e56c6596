"""The entry points, called with the commands that MLproject declares."""

import importlib
import shlex
from dataclasses import asdict, fields

import click
import pytest
import yaml
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT
from training.errors import TrainingError
from training.parameters import MODELS, OWN, by_name, choose

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def command(entry: str, values: dict[str, str]) -> tuple[click.Command, list[str]]:
    """Return the click command of an entry point and its arguments, as MLflow fills them in."""
    declared = ENTRY_POINTS[entry]
    defaults = {name: str(spec.get("default", "package")) for name, spec in declared["parameters"].items()}
    filled = {name: shlex.quote(value) for name, value in (defaults | values).items()}
    python, _, module, *arguments = shlex.split(declared["command"].format(**filled))
    assert python == "python"
    arguments += [part for name in filled.keys() - defaults.keys() for part in (f"--{name}", values[name])]
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


def test_no_parameter_of_a_model_is_declared() -> None:
    """For every model, ``mlflow run`` would log it with its default."""
    for entry in ("main", "train"):
        assert not by_name().keys() & ENTRY_POINTS[entry]["parameters"].keys()


@pytest.mark.parametrize(
    ("entry", "parameter", "says"),
    [
        ("main", "test_size=1.5", "'1.5' is not allowed; expected a number above 0 and below 1"),
        ("main", "test_size=nan", "'nan' is not allowed; expected a number above 0 and below 1"),
        ("main", "seed=-1", "'-1' is not allowed; expected a whole number from 0"),
        ("main", "ngram_max=9", "'9' is not allowed; expected a whole number from 1 to 8"),
        ("main", "min_df=2.5", "'2.5' is not allowed; expected a whole number from 1 up"),
        ("main", "C=0", "'0' is not allowed; expected a number from 1e-06 to 1000000"),
        ("main", "limit=many", "'many' is not allowed; expected a whole number from 0 up"),
        ("main", "register=maybe", "'maybe' is not one of 'yes', 'no'"),
        ("main", "promote=later", "'later' is not one of 'gated', 'always', 'never'"),
        ("main", "source=nothing.csv", "nothing.csv: no such file"),
        (
            "main",
            "model=bert",
            f"model is 'bert'; expected {', '.join(MODELS)}, or path",
        ),
        ("main", "model=mine:a.b", "model is 'mine:a.b'; expected ngram"),
        ("train", "max_tokens=4", "'4' is not allowed; expected a whole number from 8 to 8192"),
        ("train", "head=svm", "'svm' is not one of 'mlp', 'logistic'"),
        ("train", "precision=int4", "'int4' is not one of 'auto', 'float32', 'int8'"),
        ("train", "learning_rate=0", "'0' is not allowed; expected a number from 1e-08 to 1"),
        ("ingest", "test_size=0", "expected a number above 0 and below 1"),
        ("train", "C=inf", "'inf' is not allowed; expected a number from 1e-06 to 1000000"),
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


@pytest.mark.parametrize("model", [*MODELS, OWN])
def test_each_parameter_has_its_type_its_range_and_a_sentence(model: str) -> None:
    chosen = choose(model, {})
    for one in fields(chosen):
        if one.name != "model":
            default, allowed = getattr(chosen, one.name), one.metadata["allowed"]
            shared, _ = by_name()[one.name]
            assert (shared.default, shared.metadata) == (one.default, one.metadata), "one name, one parameter"
            kind = click.types.convert_type(allowed)
            assert kind.convert(str(default), None, None) == default
            assert one.metadata["what"].endswith(".")


@pytest.mark.parametrize(("model", "name"), [(m, name) for m in (*MODELS, OWN) for name in by_name()])
def test_a_model_takes_its_own_parameters_and_names_them_for_any_other(model: str, name: str) -> None:
    parameter, models = by_name()[name]
    if model in models:
        beside = {"engine": "spark"} if name == "master" else {}
        assert asdict(choose(model, {name: parameter.default} | beside))[name] == parameter.default
    else:
        with pytest.raises(TrainingError, match=f"^model={model} has no parameter {name}; it has ") as told:
            choose(model, {name: parameter.default})
        for own, (_, which) in by_name().items():
            assert (own in told.value.message.split("; it has ")[1].split(", ")) == (model in which)


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        (
            "ngram",
            {"master": "yarn"},
            "master has no effect without engine=spark; leave it out",
        ),
        (
            "stack",
            {"warm_start": 3, "epochs": 7, "alpha": 0.2},
            "epochs has no effect with warm_start=3, which reuses a network; leave it out",
        ),
    ],
)
def test_a_parameter_without_an_effect_is_refused(model: str, given: dict[str, object], says: str) -> None:
    with pytest.raises(TrainingError) as told:
        choose(model, given)
    assert told.value.message == says


def test_the_run_page_shows_what_is_used() -> None:
    assert "master" not in choose("ngram", {}).used()
    cold, warm = choose("stack", {}).used(), choose("stack", {"warm_start": 3}).used()
    assert cold.keys() - warm.keys() == {
        "weights",
        "max_tokens",
        "precision",
        "epochs",
        "batch_size",
        "learning_rate",
        "checkpoints",
    }


def test_where_a_model_was_fitted_is_not_what_was_fitted() -> None:
    on_spark = choose("ngram", {"engine": "spark", "master": "yarn"})
    assert on_spark.deciding() == choose("ngram", {}).deciding()
    assert on_spark.used()["master"] == "yarn"
    assert "checkpoints" not in choose("transformer", {}).deciding()


def test_the_seed_is_no_part_of_a_pipeline_of_ones_own() -> None:
    assert choose("a:b", {"seed": 1}).deciding() == choose("a:b", {}).deciding()


def test_mlflow_run_hands_a_models_parameters_on_as_they_are_typed(store: MlflowClient) -> None:
    """Beside those that MLproject declares; the error names the parameter as it was typed."""
    main, arguments = command("train", {"model": "transformer"})
    declared = main.make_context("train", [*arguments, "--batch_size", "8"]).params
    assert declared["batch_size"] == 8
    for extra, says in (
        (["--batch_size", "0"], "Error: Invalid value for batch_size: '0' is not allowed"),
        (["--precision", "a--b_c"], "Error: Invalid value for precision: 'a--b_c' is not one of"),
        (["a\nb"], "Error: Got unexpected extra argument (a b)"),
        (["--batch_sise", "8"], "Error: No such option 'batch_sise'. Did you mean 'batch_size'?"),
    ):
        told = CliRunner().invoke(main, [*arguments, *extra], env={"MLFLOW_RUN_ID": "x"})
        assert told.output.startswith(says)
    told = CliRunner().invoke(main, [*arguments, "--batch-size", "0"])
    assert told.output.startswith("Error: Invalid value for '--batch-size': '0' is not allowed")
