"""What the artifact is: plain data and code, the same for the same data, loadable anywhere."""

import json
import os
import pickletools
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sklearn.pipeline import Pipeline

from registry.digests import WRITTEN_BY_MLFLOW_AT_LOAD, digests
from sentiment_model import ngrams
from sentiment_model.ngrams import NgramScorer
from tests.conftest import ROOT, SMALL, SUMMARY
from tests.test_environments import pins
from training.artifact import SERVING_PACKAGES, dependency_pins, write_examples
from training.errors import TrainingError
from training.models.ngram import PACKAGES, write_scorer
from training.parameters import Ngram
from training.report.explain import ngram_table
from training.train import Candidate, train

pytestmark = pytest.mark.medium


def artifact(candidate: Candidate, to: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=candidate.model_uri, dst_path=str(to)))


@pytest.fixture
def model(candidate: Candidate, tmp_path: Path) -> Path:
    return artifact(candidate, tmp_path / "model")


def test_it_loads_without_pickle_where_the_project_is_not_installed(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys, mlflow.pyfunc, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "assert 'training' not in sys.modules and 'sentiment_model' not in sys.modules\n"
        "rows = model.predict(pd.DataFrame({'text': ['A wonderful film.', None]}))\n"
        "assert rows[0]['sentiment'] == 'positive', rows\n"
        "assert rows[1]['error'], rows\n"
        "assert 'sklearn' not in sys.modules\n"
        "print('answered')\n"
    )
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-W", "error::UserWarning:mlflow.pyfunc", "-c", program, str(model)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "answered\n", done.stderr
    assert not list(model.rglob("*.nb?")), "numba keeps what it compiled elsewhere"


@pytest.mark.parametrize(
    ("program", "frozen"),
    [
        ("import mlflow.pyfunc.scoring_server.app", True),
        ("import os, mlflow; mlflow.pyfunc.load_model(os.environ['__pyfunc_model_path__'])", False),
    ],
    ids=["served", "in a notebook"],
)
def test_garbage_collection_passes_over_what_a_server_has_loaded(
    model: Path, program: str, frozen: bool
) -> None:
    environment = os.environ | {"__pyfunc_model_path__": str(model)}
    command = [sys.executable, "-c", f"{program}\nimport gc; print(gc.get_freeze_count())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 10_000) is frozen


def test_no_file_of_it_is_a_pickle(model: Path) -> None:
    for path in model.rglob("*"):
        if path.is_file():
            assert path.suffix in {".py", ".json", ".yaml", ".txt", ".parquet", ""}, path
            with pytest.raises(Exception, match=r"."):
                list(pickletools.genops(path.read_bytes()))


def test_it_holds_only_what_serving_needs(model: Path) -> None:
    found = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    shipped = {f"code/sentiment_model/{path.name}" for path in (ROOT / "sentiment_model").glob("*.py")}
    assert found - {WRITTEN_BY_MLFLOW_AT_LOAD} == shipped | {
        "MLmodel",
        "artifacts/scorer/examples.json",
        "artifacts/scorer/ngrams.parquet",
        "artifacts/scorer/settings.json",
        "conda.yaml",
        "constraints.txt",
        "entry.py",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }


def test_no_path_of_this_machine_stands_in_it(model: Path, tmp_path: Path) -> None:
    for path in model.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for place in (str(ROOT), str(tmp_path), str(Path.home()), "/tmp/"):
                assert place.encode() not in content, (path, place)


def test_its_requirements_are_pinned(model: Path) -> None:
    """What it needs, and all that this needs in turn, as the project's own environment has it."""
    direct, indirect = (
        (model / f"{name}.txt").read_text().split("\n") for name in ("requirements", "constraints")
    )
    assert direct.pop() == "-c constraints.txt"
    assert {line.split("==")[0] for line in direct} == {*SERVING_PACKAGES, *PACKAGES}
    ours = {str(pin).split(";")[0] for pin, _ in pins("run").values()}
    assert {line.split(";")[0] for line in [*direct, *indirect]} <= ours
    assert {"starlette", "uvicorn", "sqlalchemy", "protobuf"} <= {line.split("==")[0] for line in indirect}
    assert 70 < len(indirect) < 110


def test_indirect_dependencies_are_followed_through_extras_and_markers() -> None:
    found = {pin.split("==")[0] for pin in dependency_pins(["mlflow"])}
    assert {"mlflow-skinny", "fastapi", "h11", "click"} <= found
    assert not {"mlflow", "colorama", "boto3"} & found, (
        "itself, of Windows, of an extra that was not asked for"
    )


def test_the_same_data_and_seed_give_the_same_content(
    model: Path, reviews: pd.DataFrame, tmp_path: Path
) -> None:
    def train_small(settings: Ngram = SMALL) -> Candidate:
        with mlflow.start_run():
            return train(reviews, SUMMARY, settings)

    again = digests(artifact(train_small(), tmp_path / "again"))
    assert again["content_digest"] == digests(model)["content_digest"]
    assert again["manifest"] != digests(model)["manifest"]
    other = digests(artifact(train_small(Ngram(ngram_max=1)), tmp_path / "other"))
    assert other["content_digest"] != digests(model)["content_digest"]


def test_two_versions_in_one_process_each_run_their_own_code(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(model), str(other)], check=True)
    contract = other / "code" / "sentiment_model" / "contract.py"
    contract.write_text(contract.read_text().replace('"positive" if', '"POSITIVE" if'))
    asked = pd.DataFrame({"text": ["A wonderful film."]})
    first, second = (mlflow.pyfunc.load_model(str(path)) for path in (model, other))
    assert first.predict(asked)[0]["sentiment"] == "positive"
    assert second.predict(asked)[0]["sentiment"] == "POSITIVE"
    assert first.predict(asked)[0]["sentiment"] == "positive"


def test_it_carries_example_answers_that_it_gives(model: Path) -> None:
    examples = json.loads((model / "artifacts/scorer/examples.json").read_text())
    rows = mlflow.pyfunc.load_model(str(model)).predict(pd.DataFrame({"text": [e["text"] for e in examples]}))
    for row, example in zip(rows, examples, strict=True):
        assert row["sentiment"] == example["sentiment"]
        assert row["confidence"] == pytest.approx(example["confidence"], abs=1e-6)


def test_a_scorer_that_differs_from_the_pipeline_is_not_exported(
    fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(fitted.pipeline.steps)
    answers = fitted.pipeline.predict_proba
    monkeypatch.setattr(pipeline, "predict_proba", lambda texts: answers(texts) + 1e-5, raising=False)
    with pytest.raises(TrainingError, match="differ by 1e-05, more than 1e-06"):
        write_scorer(pipeline, ngram_table(pipeline), tmp_path, pd.Series(["A wonderful film."]))


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_a_model_whose_scores_are_no_numbers_is_not_written(intercept: float, tmp_path: Path) -> None:
    linear = ngrams.Settings(1, bias=0.0, scale=1.0, saturating=0.0, growing=0.0, intercept=intercept)
    broken = NgramScorer(["film"], np.ones(1), np.ones(1), linear)
    with pytest.raises(TrainingError, match="no finite number; it is not registered"):
        write_examples(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_python_takes_and_refuses_the_forms_that_the_page_lists(
    store: MlflowClient, candidate: Candidate
) -> None:
    page = (ROOT / "docs" / "api.md").read_text().split("### From Python")[1].split("\n\n")[2]
    rows = re.findall(r"^\| `(.*?)`.*? \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    model = mlflow.pyfunc.load_model(candidate.model_uri)
    known = {"pd": pd, "np": np, "texts": ["one", "another"]}
    for form, said in rows:
        given = eval(form, known)
        if quoted := re.match(r"MLflow's error `(.*)`", said):
            with pytest.raises(MlflowException, match=re.escape(quoted[1])) as told:
                model.predict(given)
            assert "\n" not in str(told.value).split("Error: ")[1]
            continue
        answers = model.predict(given)
        if said == "an answer a row":
            assert [row["error"] for row in answers] == [None, None]
        else:
            assert [row["error"] for row in answers] == re.findall(r"is `(.*)`$", said)
