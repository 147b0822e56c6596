"""Fine-tuning: broken off and gone on with, and what is said of what goes wrong."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from registry.versions import all_versions
from tests.conftest import SUMMARY, free_port, standing_in, until
from training.errors import TrainingError
from training.models.validation import validation_rows
from training.models.warm_start import registered
from training.parameters import Transformer
from training.train import train

pytestmark = pytest.mark.deep
torch = pytest.importorskip("torch", reason="PyTorch (make env-deep) is not installed")

from safetensors import safe_open  # noqa: E402 -- once it is known to be there
from safetensors.torch import load_file, save_file  # noqa: E402 -- as above
from transformers import (  # noqa: E402 -- as above
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from training.models import (  # noqa: E402 -- PyTorch comes first
    encoder,
    fine_tuning,
    transformer,
)
from training.models.encoder import Tokens, export  # noqa: E402 -- as above
from training.models.pretrained import find_weights, load  # noqa: E402 -- as above


@pytest.fixture
def few(reviews: pd.DataFrame) -> pd.DataFrame:
    return reviews.head(600).reset_index(drop=True)


@pytest.fixture
def quick(tiny: Path, tmp_path: Path) -> Transformer:
    return Transformer(
        weights=str(tiny),
        max_tokens=32,
        epochs=2,
        learning_rate=1e-3,
        checkpoints=str(tmp_path / "checkpoints"),
    )


def tune(table: pd.DataFrame, settings: Transformer) -> fine_tuning.FineTuning:
    """Fine-tune as `train` does, without export."""
    encoder, _ = load(settings.weights, settings.max_tokens)
    tokens = Tokens(Path(settings.weights, "tokenizer.json"), settings.max_tokens)
    left_out = validation_rows(table)
    y = (table["sentiment"] == "positive").to_numpy()
    with fine_tuning.checkpoint(table, settings) as kept:
        tuning = fine_tuning.FineTuning(transformer.classifier_of(encoder, 0), tokens, settings, kept)
        cut = [tokens.cut(ids) for ids in tokens(table["review"][left_out])]
        tuning.run(tokens(table["review"][~left_out]), y[~left_out], cut, y[left_out])
    return tuning


def weights_of(tuning: fine_tuning.FineTuning) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in tuning.classifier.state_dict().items()}


def break_off(table: pd.DataFrame, settings: Transformer, step: int) -> None:
    """Fine-tune until Ctrl-C arrives in a step."""
    real = fine_tuning.FineTuning._step

    def interrupted(self: fine_tuning.FineTuning, *args):
        if self.steps == step:
            raise KeyboardInterrupt
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning.FineTuning, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(table, settings)


def test_a_training_that_was_broken_off_ends_with_the_same_weights(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = weights_of(tune(few, replace(quick, checkpoints=f"{quick.checkpoints}/whole")))
    break_off(few, quick, 41)
    assert len(list(Path(quick.checkpoints).glob("*.safetensors"))) == 1
    again = tune(few, quick)
    assert "going on from step 41" in capsys.readouterr().out
    for name, value in weights_of(again).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert not list(Path(quick.checkpoints).glob("*.safetensors")), "the checkpoint goes when it is over"


def test_another_seed_or_other_data_do_not_take_up_a_checkpoint(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        break_off(few, quick, 5)
    capsys.readouterr()
    for table, settings in ((few, replace(quick, seed=1)), (few.iloc[1:].reset_index(drop=True), quick)):
        break_off(table, settings, 5)
    assert "going on" not in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_not_taken_up(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_off(few, quick, 5)
    (kept,) = Path(quick.checkpoints).glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    break_off(few, quick, 5)
    assert "cannot be read; from the beginning" in capsys.readouterr().out


def test_a_checkpoint_without_all_of_it_is_not_taken_up(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves nothing behind: what is fitted then is what is fitted without it."""
    settings = replace(quick, epochs=1)
    whole = weights_of(tune(few, replace(settings, checkpoints=f"{quick.checkpoints}/whole")))
    break_off(few, settings, 5)
    (kept,) = Path(quick.checkpoints).glob("*.safetensors")
    with safe_open(kept, "pt") as file:
        state = file.metadata()
    tensors = load_file(kept)
    del tensors["now.head.1.weight"]
    save_file(tensors, kept, state)
    capsys.readouterr()
    for name, value in weights_of(tune(few, settings)).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert "cannot be read; from the beginning" in capsys.readouterr().out
    assert [file.name for file in Path(quick.checkpoints).iterdir()] == ["whole"], "no lock either"


def test_a_gpu_without_room_for_a_checkpoint_is_no_fault_of_the_checkpoint(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not thrown away: a smaller batch would be another training, a free GPU is the same."""
    break_off(few, quick, 5)
    (kept,) = Path(quick.checkpoints).glob("*.safetensors")
    before = kept.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(fine_tuning, "load_file", full)
    with pytest.raises(TrainingError, match="memory does not suffice"):
        tune(few, quick)
    assert kept.read_bytes() == before


def test_another_config_of_the_weights_does_not_take_up_a_checkpoint(
    few: pd.DataFrame,
    quick: Transformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(quick.weights, folder)
    for activation in ("gelu", "relu"):
        configured(folder, hidden_act=activation)
        break_off(few, replace(quick, weights=str(folder)), 5)
    assert "going on" not in capsys.readouterr().out
    assert len(list(Path(quick.checkpoints).glob("*.safetensors"))) == 2


def test_where_no_checkpoint_can_be_written_training_goes_on(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fine_tuning, "CHECKPOINT_SECONDS", 0.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        tuning = tune(few, replace(quick, epochs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tuning.steps > 0
    told = capsys.readouterr().err
    assert re.search(r"^NOTE: in step 1 no checkpoint could be written \(.*File too large.*\)$", told, re.M)
    assert list(Path(quick.checkpoints).iterdir()) == []


def test_a_folder_that_keeps_no_checkpoints_is_one_line(few: pd.DataFrame, quick: Transformer) -> None:
    Path(quick.checkpoints).write_text("a file")
    with pytest.raises(TrainingError, match=r"checkpoints=.*: no checkpoint can be kept there \(") as told:
        tune(few, quick)
    assert "\n" not in told.value.message


def test_curves_are_whole_after_a_break(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, store: MlflowClient
) -> None:
    with mlflow.start_run():
        break_off(few, quick, 41)
    with mlflow.start_run() as run:
        tuning = tune(few, quick)
    losses = store.get_metric_history(run.info.run_id, "curve/loss")
    assert sorted(point.step for point in losses) == list(range(20, tuning.steps + 1, 20))
    assert store.get_metric_history(run.info.run_id, "curve/validation_loss")


EAGER = """
from training.models import fine_tuning
fine_tuning.CHECKPOINT_SECONDS = 0
from training.main import main
main()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, "RUNNING"), (signal.SIGTERM, "KILLED"), (signal.SIGINT, "KILLED")]
)
def test_a_process_that_was_killed_is_gone_on_with_by_the_same_command(
    number: signal.Signals, status: str, few: pd.DataFrame, tiny: Path, tmp_path: Path
) -> None:
    """Nothing is registered, and the next run needs no more than the same command; but for kill -9 nothing else is left."""
    few[["review", "sentiment", "source"]].to_csv(tmp_path / "few.csv", index=False)
    asked = f"--source few.csv --out imdb.csv --model transformer --weights {tiny} --max-tokens 32 --epochs 4 --precision float32 --checkpoints kept"
    command = [sys.executable, "-c", EAGER, *asked.split(), "--promote", "never"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MLFLOW_TRACKING_URI": uri,
        "TMPDIR": str(scratch),
    }
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        until(lambda: list(tmp_path.glob("kept/*.safetensors")), 120, "a checkpoint")
        process.send_signal(number)
    assert process.returncode == (-9 if number == signal.SIGKILL else 1)
    with standing_in(tmp_path) as client:
        assert all_versions(client) == []
        (run,) = client.search_runs(["0"])
        assert run.info.status == status
        left = [path.name for path in scratch.iterdir() if path.name.startswith(("transformer-", "weights-"))]
        assert len(left) == (number == signal.SIGKILL)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        told = re.search(r"going on from step (\d+)", done.stdout)
        assert told
        assert int(told[1]) > 0
        (version,) = all_versions(client)
        steps = [point.step for point in client.get_metric_history(version.run_id, "curve/loss")]
        assert sorted(steps) == list(range(20, max(steps) + 1, 20)), "the curve is whole"
    assert list(tmp_path.glob("kept/*.safetensors")) == []


def test_it_stops_early_with_the_best_weights(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fine_tuning, "EVALUATIONS", 10)
    settings = replace(quick, epochs=30, learning_rate=3e-3)
    tuning = tune(few, settings)
    assert "stopped early" in capsys.readouterr().out
    an_epoch = -(-int((~validation_rows(few)).sum()) // settings.batch_size)
    assert tuning.steps < 30 * an_epoch


def test_better_answers_win_though_the_network_is_too_sure_of_them(
    quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is exported is calibrated: a network that has learnt more, and whose log-odds have grown, is not worse for that."""
    random = np.random.default_rng(0)
    y = random.random(400) < 0.5
    earlier = random.normal(size=400) + np.where(y, 1, -1)
    later = 30 * (random.normal(size=400) + np.where(y, 1.5, -1.5))
    found = iter([earlier, later, earlier])
    monkeypatch.setattr(fine_tuning, "score", lambda *_: next(found))
    network, _ = load(quick.weights, quick.max_tokens)
    tokens = Tokens(Path(quick.weights, "tokenizer.json"), quick.max_tokens)
    tuning = fine_tuning.FineTuning(transformer.classifier_of(network, 0), tokens, quick, None)
    best = []
    for _ in range(3):
        tuning._evaluate([[1] * 20] * 400, y)
        best.append(tuning._without_better)
    assert best == [0, 0, 1]


def test_a_loss_that_is_no_number_ends_it(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that diverged: a weight is no number any more."""
    real = fine_tuning.FineTuning._step

    def diverged(self: fine_tuning.FineTuning, *args):
        if self.steps == 3:
            next(self.classifier.head.parameters()).data.fill_(torch.nan)
        return real(self, *args)

    monkeypatch.setattr(fine_tuning.FineTuning, "_step", diverged)
    with pytest.raises(TrainingError, match=r"the loss is nan in step 3; lower learning_rate \(0.001\)"):
        tune(few, quick)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            MemoryError(),
            r"memory does not suffice for 16 texts of 32 tokens .*lower batch_size or max_tokens",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            ),
            "lower batch_size or max_tokens",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "lower batch_size or max_tokens",
        ),
    ],
)
def test_too_little_memory_says_what_to_lower(
    error: Exception, says: str, few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(fine_tuning.FineTuning, "_step", fails)
    with pytest.raises(TrainingError, match=says):
        tune(few, quick)


def test_a_lost_gpu_is_one_line_and_keeps_the_checkpoint(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no GPU is there to be lost, the error is one, and PyTorch says that it has one."""
    real = fine_tuning.FineTuning._step

    def lost(self: fine_tuning.FineTuning, *args):
        if self.steps == 7:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            raise RuntimeError(
                "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be ..."
            )
        return real(self, *args)

    monkeypatch.setattr(fine_tuning.FineTuning, "_step", lost)
    monkeypatch.setattr(fine_tuning, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(
        TrainingError, match=r"the GPU failed in step 7 \(CUDA error: uncorrectable .*goes on"
    ) as told:
        tune(few, quick)
    assert "\n" not in told.value.message
    assert len(list(Path(quick.checkpoints).glob("*.safetensors"))) == 1


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def configured(folder: Path, **changes: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def of_another(folder: Path, model: Any, config: Any, **settings: Any) -> None:
    """Write weights of another network."""
    model(config(**{"vocab_size": 30522} | settings)).save_pretrained(folder)


def refilled(folder: Path, value: float) -> None:
    """Write one number of the weights anew."""
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][7, 3] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "the folder lacks config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the folder lacks tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "the folder lacks model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
            "cannot be read",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "cannot be read",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "no-such"}'), "cannot be read"),
        (lambda folder: configured(folder, num_hidden_layers=3), "lack 16 tensors of the encoder"),
        (lambda folder: configured(folder, num_hidden_layers=1), "more layers than their config.json says"),
        (lambda folder: configured(folder, num_attention_heads=0), "cannot be read"),
        (lambda folder: configured(folder, hidden_size="abc"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "cannot be read"),
        (lambda folder: refilled(folder, torch.nan), "no numbers everywhere"),
        (lambda folder: refilled(folder, torch.inf), "no numbers everywhere"),
        (
            lambda folder: of_another(folder, BertModel, BertConfig, vocab_size=500, **SMALL),
            "the tokenizer knows 30,522 tokens, the network 500; they do not belong together",
        ),
        (
            lambda folder: of_another(
                folder, RobertaModel, RobertaConfig, max_position_embeddings=32, **SMALL
            ),
            "not those of an encoder that reads 32 tokens",
        ),
        (
            lambda folder: of_another(folder, GPT2Model, GPT2Config, n_embd=32, n_layer=1, n_head=2),
            "those of a decoder",
        ),
        (
            lambda folder: of_another(folder, T5Model, T5Config, d_model=32, d_kv=16, d_ff=64, num_layers=1),
            "not those of an encoder",
        ),
    ],
)
def test_weights_that_are_missing_or_corrupt_are_one_line(
    spoil, says: str, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny, folder)
    spoil(folder)
    with pytest.raises(TrainingError, match=says) as told:
        load(str(folder), 32)
    assert "\n" not in told.value.message


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
        monkeypatch.setattr(constants, name, f"http://127.0.0.1:{free_port()}", raising=False)
    with pytest.raises(
        TrainingError, match=r"weights=nobody/no-such-model cannot be read .*can be reached"
    ) as told:
        load("nobody/no-such-model", 32)
    assert "\n" not in told.value.message


def test_more_tokens_than_the_weights_read_are_refused(tiny: Path) -> None:
    with pytest.raises(TrainingError, match=r"max_tokens is 513; weights=.* read at most 512"):
        load(str(tiny), 513)


def test_a_pickle_in_place_of_safetensors_is_not_opened(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"lacks model.safetensors"):
        find_weights(str(folder))


def test_too_few_rows_for_validation_are_refused(few: pd.DataFrame) -> None:
    with pytest.raises(TrainingError, match="rows are left for validation, one in 16"):
        validation_rows(few.head(100))


def test_int8_is_taken_where_it_costs_next_to_nothing(
    few: pd.DataFrame, quick: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = tune(few, replace(quick, epochs=1))
    sizes = {}
    # what it may cost: anything, or less than nothing
    for precision, most, taken in (("auto", 9.0, "int8"), ("auto", 0.0, "float32"), ("int8", 0.0, "int8")):
        monkeypatch.setattr(encoder, "INT8_ACCURACY", most)
        monkeypatch.setattr(encoder, "INT8_LOG_LOSS", most)
        folder = tmp_path / f"{precision} {most}"
        folder.mkdir()
        shutil.copy(Path(quick.weights, "tokenizer.json"), folder)
        made = export(tuning.classifier, 32, few[validation_rows(few)], precision, folder)
        sizes[made.precision] = (folder / "encoder.onnx").stat().st_size
        assert made.precision == taken
        assert {path.name for path in folder.iterdir()} == {"encoder.onnx", "settings.json", "tokenizer.json"}
        again = encoder.EncoderScorer.load(folder)
        assert again.settings == made.scorer.settings
        assert again.settings.batched is (taken == "float32")
    assert sizes["int8"] < 0.4 * sizes["float32"]
    texts = few["review"].head(50)
    alone = np.concatenate([again.log_odds([text]) for text in texts])
    np.testing.assert_array_equal(
        alone, again.log_odds(texts), err_msg="int8 is the same to the bit, whatever is beside it"
    )


def test_a_warm_start_refuses_a_version_that_has_seen_what_is_held_out(
    few: pd.DataFrame, quick: Transformer, store: MlflowClient
) -> None:
    from training.train import register_candidate

    with mlflow.start_run():
        number = register_candidate(train(few, SUMMARY, replace(quick, epochs=1)))
    assert len(registered(number, "encoder", "transformer", few).seen) == (few["split"] == "train").sum()
    swapped = few.assign(split=few["split"].map({"train": "test", "test": "train"}))
    with pytest.raises(
        TrainingError, match=rf"version {number} was trained on \d+ of the rows that are held out here"
    ):
        registered(number, "encoder", "transformer", swapped)
    store.set_model_version_tag("SentimentClassifier", str(number), "model", "embedding")
    with pytest.raises(TrainingError, match=r"is of model=embedding; give a version of model=transformer"):
        registered(number, "encoder", "transformer", few)
    with pytest.raises(TrainingError, match=rf"version {number} is no hashing \(its scorer is encoder\)"):
        registered(number, "hashing", "hashing", few)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A GPU of which this process may have 48 MB."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(48e6 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@needs_gpu
def test_on_a_gpu_products_are_of_half_precision_and_weights_are_not(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    real = torch.nn.Linear.forward

    def seen(self, given):
        result = real(self, given)
        if torch.is_grad_enabled():
            found.add((result.device.type, result.dtype, self.weight.dtype))
        return result

    monkeypatch.setattr(torch.nn.Linear, "forward", seen)
    tune(few, replace(quick, epochs=1))
    assert found == {("cuda", torch.bfloat16, torch.float32)}


@needs_gpu
def test_without_bfloat16_gradients_are_scaled_and_the_scale_is_kept(
    few: pd.DataFrame, quick: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    whole = weights_of(tune(few, replace(quick, checkpoints=f"{quick.checkpoints}/whole")))
    break_off(few, quick, 41)
    (kept,) = Path(quick.checkpoints).glob("*.safetensors")
    with safe_open(kept, "pt") as file:
        assert json.loads(file.metadata()["state"])["scaler"]["scale"] >= 1
    for name, value in weights_of(tune(few, quick)).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


@needs_gpu
def test_a_gpu_learns_what_a_processor_learns(
    few: pd.DataFrame, quick: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what is rounded: nothing is dropped, since each device draws by its own generator."""
    folder = tmp_path / "weights"
    shutil.copytree(quick.weights, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(transformer, "DROPOUT", 0.0)
    settings = replace(quick, weights=str(folder))
    tokens = Tokens(folder / "tokenizer.json", quick.max_tokens)
    unseen = [tokens.cut(ids) for ids in tokens(few["review"][validation_rows(few)])]
    gpu = encoder.score(tune(few, settings).classifier, unseen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    processor = encoder.score(tune(few, settings).classifier, unseen)
    np.testing.assert_allclose(gpu, processor, atol=0.1 * processor.std())


@needs_gpu
@pytest.mark.usefixtures("little_memory", "store")
@pytest.mark.parametrize(
    ("model", "lower"), [("transformer", "batch_size or max_tokens"), ("embedding", "max_tokens")]
)
def test_a_gpu_with_too_little_memory_says_what_to_lower(
    model: str, lower: str, reviews: pd.DataFrame, quick: Transformer
) -> None:
    settings = replace(quick, model=model, batch_size=256, max_tokens=512)
    with (
        mlflow.start_run(),
        pytest.raises(TrainingError, match=rf"not suffice for .*512 tokens .*; lower {lower}$") as told,
    ):
        train(reviews, SUMMARY, settings)
    assert "\n" not in told.value.message


LOST = """
import torch
from training.models import fine_tuning
real = fine_tuning.FineTuning._step
def lost(self, *args):
    if self.steps == 30:  # a kernel fails: no call of this process to the GPU works after it
        torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]
    return real(self, *args)
fine_tuning.FineTuning._step = lost
"""


@needs_gpu
def test_a_gpu_that_fails_ends_in_one_line_and_the_same_command_goes_on(
    few: pd.DataFrame, tiny: Path, tmp_path: Path
) -> None:
    few[["review", "sentiment", "source"]].to_csv(tmp_path / "few.csv", index=False)
    asked = f"--source few.csv --out imdb.csv --model transformer --weights {tiny} --max-tokens 32 --epochs 4 --precision float32 --checkpoints kept"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }

    def run(program: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *asked.split(), "--promote", "never"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    failed = run(LOST + EAGER)
    assert failed.returncode == 1, failed.stderr[-2000:]
    assert "Traceback" not in failed.stderr
    assert re.search(r"^Error: the GPU failed in step 30 \(.*goes on from its last", failed.stderr, re.M)
    with standing_in(tmp_path) as client:
        assert all_versions(client) == []
        done = run(EAGER)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "going on from step 30" in done.stdout
        assert len(all_versions(client)) == 1
