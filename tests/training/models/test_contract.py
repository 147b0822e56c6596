"""The contract of the artifact, held by every kind of model alike."""

import json
import os
import pickletools
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from scipy.special import logit

from data.table import row_hash
from registry import stages
from registry.digests import digests
from registry.versions import all_versions, in_production, register
from tests.conftest import ROOT, SUMMARY, free_port, running, standing_in
from tests.test_environments import pins
from training.errors import TrainingError
from training.models.catalog import model_of
from training.parameters import MODELS, Parameters, Transformer, choose
from training.promote import promote
from training.train import Candidate, train

pytestmark = [pytest.mark.xdist_group("kinds"), pytest.mark.medium]

DEEP = {"embedding", "transformer", "stack"}
EXPLAINED = {"ngram", "hashing"}
OWN = "tests.pipelines:tfidf"
ALL = [pytest.param(name, marks=pytest.mark.deep) if name in DEEP else name for name in (*MODELS, OWN)]
(STACK,) = [param for param in ALL if getattr(param, "values", None) == ("stack",)]
# the log-odds of a text, alone and beside others: exact in all kinds but where float32 is summed side by side
WITHIN = dict.fromkeys(DEEP, 1e-5) | {OWN: 1e-12}
TEXTS = [
    "A wonderful film.",
    "dull " * 400,
    "Two hours of my life that I will never get back.",
    "x",
    "\ud800 é 😀 <b>great</b> &amp; 10/10",
    "not " * 5 + "good",
    "9" * 70_000,
    " ".join(f"word{i}" for i in range(60_000)),
]


def quick(model: str, request: pytest.FixtureRequest, folder: Path) -> Parameters:
    """What trains a model in seconds."""
    given: dict[str, Any] = {}
    if model in ("ngram", "hashing", "stack"):
        given |= {"ngram_max": 2}
    if model in DEEP:
        given |= {"weights": str(request.getfixturevalue("tiny")), "max_tokens": 48, "precision": "float32"}
    if model in ("transformer", "stack"):
        given |= {"epochs": 1, "learning_rate": 1e-3, "checkpoints": str(folder / "checkpoints")}
    return choose(model, given)


def trained(reviews: pd.DataFrame, chosen: Parameters) -> Candidate:
    with mlflow.start_run():
        return train(reviews, SUMMARY, chosen)


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Candidate]]:
    """A store, and what was trained in it so far."""
    return tmp_path_factory.mktemp("kinds"), {}


def have(name: str, request: pytest.FixtureRequest) -> str:
    """See to it that a kind is trained and registered, once."""
    folder, found = request.getfixturevalue("versions")
    if name not in found:
        with standing_in(folder) as client:
            reviews = request.getfixturevalue("reviews")
            found[name] = trained(reviews, quick(name, request, folder))
            register(client, found[name].model_uri, found[name].run_id, found[name].tags, name)
    return name


@pytest.fixture(params=ALL)
def model(request: pytest.FixtureRequest) -> str:
    """A kind, trained and registered."""
    return have(request.param, request)


@pytest.fixture
def client(versions: tuple[Path, dict[str, Candidate]]):
    with standing_in(versions[0]) as found:
        yield found


@pytest.fixture
def artifact(
    model: str, versions: tuple[Path, dict[str, Candidate]], client: MlflowClient, tmp_path: Path
) -> Path:
    """The files of a kind."""
    found = mlflow.artifacts.download_artifacts(
        artifact_uri=versions[1][model].model_uri, dst_path=str(tmp_path / "model")
    )
    return Path(found)


def rows_of(texts: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.Series(list(texts), dtype=object)})


def ask(artifact: Path, texts: Sequence[object]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = mlflow.pyfunc.load_model(str(artifact)).predict(rows_of(texts))
    return rows


def log_odds(rows: list[dict[str, object]]) -> np.ndarray:
    margins = logit(np.array([row["confidence"] for row in rows], dtype=float))
    return np.where([row["sentiment"] == "positive" for row in rows], margins, -margins)


@pytest.mark.large
def test_it_loads_without_pickle_and_without_what_trained_it(artifact: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class NotThere:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'onnx', 'safetensors'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NotThere())\n"
        "import json, mlflow.pyfunc, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "rows = model.predict(pd.DataFrame({'text': ['A wonderful film.', None]}))\n"
        "there = {'training', 'sentiment_model'} & set(sys.modules)\n"
        "print(json.dumps([rows, sorted(there)]))\n"
    )
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", program, str(artifact)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (good, bad), there = json.loads(done.stdout)
    assert there == []
    assert good["error"] is None
    assert bad == {
        "sentiment": None,
        "confidence": None,
        "error": "row 1: text is null; send a non-empty string",
    }


def test_no_file_of_it_is_a_pickle_or_names_this_machine(artifact: Path, tmp_path: Path) -> None:
    allowed = {".py", ".json", ".yaml", ".txt", ".parquet", ".onnx", ".skops", ""}
    for path in artifact.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert path.suffix in allowed, path
            with pytest.raises(Exception, match=r"."):
                list(pickletools.genops(content))
            for place in (str(ROOT), str(tmp_path), str(Path.home()), sys.prefix, "/tmp/", "site-packages"):
                assert place.encode() not in content, (path, place)


def test_its_requirements_are_ours_and_hold_no_framework_of_training(artifact: Path) -> None:
    lines = (artifact / "requirements.txt").read_text().splitlines()
    lines += (artifact / "constraints.txt").read_text().splitlines()
    lines.remove("-c constraints.txt")
    ours = {str(pin).split(";")[0] for pin, _ in pins("onnx").values()}
    assert {line.split(";")[0] for line in lines} <= ours


def test_its_signature_is_that_of_every_kind(artifact: Path) -> None:
    signature = mlflow.pyfunc.load_model(str(artifact)).metadata.signature
    assert signature.inputs.input_names() == ["text"]
    assert signature.outputs.input_names() == ["sentiment", "confidence", "error"]
    assert [param.name for param in signature.params] == ["explain"]


def test_rows_that_cannot_be_scored_answer_in_their_place(artifact: Path) -> None:
    rows = ask(artifact, ["fine", None, 5, " ", "nan", "fine"])
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True]
    assert rows[0] == rows[5]
    assert [row["error"] for row in rows][1:5] == [
        "row 1: text is null; send a non-empty string",
        "row 2: text is of type int; send a non-empty string",
        "row 3: text is blank; send a non-empty string",
        "row 4: text is 'nan', which is how a missing value arrives; send a non-empty string",
    ]


def test_a_text_is_answered_alone_as_in_a_batch(model: str, artifact: Path, reviews: pd.DataFrame) -> None:
    texts = [*TEXTS, *reviews["review"].head(60)]
    loaded = mlflow.pyfunc.load_model(str(artifact))
    together = log_odds(loaded.predict(rows_of(texts)))
    alone = [log_odds(loaded.predict(rows_of([text])))[0] for text in texts]
    assert np.isfinite(together).all()
    assert len(set(together.round(6))) > 30, "the model says something of the texts"
    np.testing.assert_allclose(alone, together, rtol=0, atol=WITHIN.get(model, 0))


def test_threads_may_share_it(model: str, artifact: Path, reviews: pd.DataFrame) -> None:
    texts = reviews["review"].head(20).tolist()
    loaded = mlflow.pyfunc.load_model(str(artifact))
    expected = log_odds(loaded.predict(rows_of(texts)))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: loaded.predict(rows_of(texts)), range(24)))
    for answered in answers:
        np.testing.assert_allclose(log_odds(answered), expected, rtol=0, atol=WITHIN.get(model, 0))


def test_explanations_are_exact_or_refused(model: str, artifact: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(artifact))
    asked = pd.DataFrame({"text": ["A wonderful film."]})
    if model not in EXPLAINED:
        with pytest.raises(MlflowException, match="explain is not available for this model") as refused:
            loaded.predict(asked, params={"explain": 5})
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
        assert loaded.predict(asked, params={"explain": 0}) == loaded.predict(asked)
        return
    (row,) = loaded.predict(asked, params={"explain": 5})
    explanation = row["explanation"]
    contributions = sum(one["contribution"] for one in explanation["ngrams"])
    assert explanation["bias"] + explanation["rest"] + contributions == pytest.approx(explanation["log_odds"])
    assert explanation["log_odds"] == pytest.approx(log_odds([row])[0], abs=1e-6)
    (row,) = loaded.predict(asked, params={"explain": 100})
    assert len(row["explanation"]["ngrams"]) < 100, "every n-gram of the text"
    assert row["explanation"]["rest"] == pytest.approx(0, abs=1e-6), "and so nothing is left"


def test_it_gives_the_example_answers_that_it_carries(artifact: Path) -> None:
    examples = json.loads((artifact / "artifacts/scorer/examples.json").read_text())
    rows = ask(artifact, [example["text"] for example in examples])
    assert [row["sentiment"] for row in rows] == [example["sentiment"] for example in examples]
    assert [row["confidence"] for row in rows] == pytest.approx(
        [example["confidence"] for example in examples], abs=1e-6
    )


@pytest.mark.large
def test_the_same_data_and_seed_give_the_same_content(
    model: str,
    artifact: Path,
    reviews: pd.DataFrame,
    request: pytest.FixtureRequest,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    again = trained(reviews, quick(model, request, tmp_path))
    copy = mlflow.artifacts.download_artifacts(artifact_uri=again.model_uri, dst_path=str(tmp_path / "again"))
    assert digests(Path(copy))["content_digest"] == digests(artifact)["content_digest"]


def test_the_run_says_what_the_kind_is(model: str, versions, client: MlflowClient) -> None:
    candidate = versions[1][model]
    run = client.get_run(candidate.run_id)
    expected = choose(model, {}).used().keys() | {"rows"}
    assert run.data.params.keys() == expected
    assert run.data.params["model"] == candidate.tags["model"] == model
    for name in ("accuracy", "ece", "imdb/accuracy", "rotten_tomatoes/accuracy", "seconds/fit"):
        assert name in run.data.metrics


@pytest.mark.parametrize("model", [param for param in ALL if param not in ("ngram", STACK)], indirect=True)
def test_held_out_rows_are_answered_as_they_were_judged(
    model: str, versions, artifact: Path, reviews: pd.DataFrame, client: MlflowClient
) -> None:
    """N-grams are fitted once more, on the held-out rows too; the other kinds are not."""
    seen = pd.read_parquet(
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"runs:/{versions[1][model].run_id}/data/trained_on.parquet"
        )
    )
    assert set(seen["row"]) == set(reviews["review"][reviews["split"] == "train"].map(row_hash))
    judged = pd.read_parquet(
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"runs:/{versions[1][model].run_id}/held_out/predictions.parquet"
        )
    )
    assert not set(judged["row"]) & set(seen["row"])
    texts = reviews["review"][reviews["split"] == "test"].tolist()
    np.testing.assert_allclose(log_odds(ask(artifact, texts)), judged["log_odds"], atol=1e-4)


@pytest.mark.large
def test_a_champion_of_one_kind_is_challenged_by_another_and_rollback_goes_back(
    model: str, request: pytest.FixtureRequest, client: MlflowClient
) -> None:
    """From another kind to this one, through the gate, and back."""
    other = have("hashing" if model == "ngram" else "ngram", request)
    numbers = {version.tags["model"]: version.number for version in all_versions(client)}
    ours, theirs = numbers[model], numbers[other]
    promote(client, theirs, force=True)
    verdict = promote(client, ours, force=True)
    assert verdict is not None
    assert verdict.champion == theirs
    assert verdict.numbers["compared_rows"] > 100
    assert [version.number for version in in_production(client)] == [ours]
    stages.rollback(client, ours, reason="of another kind")
    assert [version.number for version in in_production(client)] == [theirs]


@pytest.mark.deep
@pytest.mark.parametrize("model", ["stack"], indirect=True)
def test_mlflow_models_serve_answers(model: str, artifact: Path) -> None:
    """The command of the mission on a version with two scorers in it."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(artifact)]
    command += ["--env-manager", "local", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/ping"):
        asked = {"inputs": ["A wonderful film.", "Dull."]}
        answered = requests.post(f"{url}/invocations", json=asked, timeout=60)
        refused = requests.post(f"{url}/invocations", json=asked | {"params": {"explain": 3}}, timeout=60)
        many = requests.post(f"{url}/invocations", json={"inputs": ["a"] * 2_001}, timeout=60)
    assert [row["error"] for row in answered.json()["predictions"]] == [None, None]
    assert answered.json()["predictions"] == ask(artifact, asked["inputs"])
    assert refused.status_code == many.status_code == 400
    assert "explain is not available for this model" in refused.text
    assert "2,001 rows; send at most 2,000 at once" in many.text


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(TrainingError, match="model is 'bert'; expected ngram, "):
        choose("bert", {})


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in (
        "training.models.embedding",
        "training.models.transformer",
        "training.models.encoder",
        "training.models.stack",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(TrainingError, match=r"model=transformer needs torch, .*'make env-deep'"):
        model_of(Transformer())
