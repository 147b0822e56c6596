"""Whoever can write the artifact store, or the registry too, has code of theirs run: by whom, and by whom not.

Each forged version would create a file, the canary, if it were loaded. A control loads it as MLflow does and finds the
canary: so the attacks are real.
"""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient

import inference.serve
import inference.service.canary
import inference.smoke
import training.evaluate
import training.promote
import training.rollback
from registry.digests import digests
from registry.store import MODEL_NAME
from registry.versions import Version, find
from tests.inference.conftest import Registry, Service
from tests.inference.service.test_follow import FAST

pytestmark = [pytest.mark.real_models, pytest.mark.medium]

Attack = Callable[..., None]


def code_of(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\n"


def edit_mlmodel(folder: Path, **changes: object) -> None:
    path = folder / "MLmodel"
    written = yaml.safe_load(path.read_text())
    written["flavors"]["python_function"] |= changes
    path.write_text(yaml.safe_dump(written))


class Bomb:
    """What runs a program when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self._canary}'",)


def bundled_code(folder: Path, canary: Path) -> None:
    path = folder / "code" / "sentiment_model" / "contract.py"
    path.write_text(code_of(canary) + path.read_text())


def entry_file(folder: Path, canary: Path) -> None:
    path = folder / "entry.py"
    path.write_text(code_of(canary) + path.read_text())


def pickle_in_place_of_code(folder: Path, canary: Path) -> None:
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Bomb(canary)))
    path = folder / "MLmodel"
    written = yaml.safe_load(path.read_text())
    flavor = written["flavors"]["python_function"]
    del flavor["model_code_path"]
    flavor |= {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}
    path.write_text(yaml.safe_dump(written))


def another_loader(folder: Path, canary: Path) -> None:
    (folder / "code" / "evil.py").write_text(code_of(canary))
    edit_mlmodel(folder, loader_module="evil")


def a_module_that_hides_another(folder: Path, canary: Path) -> None:
    (folder / "code" / "numba.py").write_text(code_of(canary))


def outside(canary: Path) -> Path:
    folder = canary.with_name("outside")
    folder.mkdir(exist_ok=True)
    (folder / "numba.py").write_text(code_of(canary))
    return folder


def code_outside_by_absolute_path(folder: Path, canary: Path) -> None:
    edit_mlmodel(folder, code=str(outside(canary)))


def code_outside_by_dots(folder: Path, canary: Path) -> None:
    edit_mlmodel(folder, code=os.path.relpath(outside(canary), folder.resolve()))


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        bundled_code,
        entry_file,
        pickle_in_place_of_code,
        another_loader,
        a_module_that_hides_another,
        code_outside_by_absolute_path,
        code_outside_by_dots,
    )
}
# one of code and one of a path in `make test`
FEW = [
    name if name in ("bundled_code", "code_outside_by_dots") else pytest.param(name, marks=pytest.mark.large)
    for name in ATTACKS
]
STARTED_BY_HAND = {
    "serve": (inference.serve.main, []),
    "smoke": (inference.smoke.main, []),
    "evaluate": (training.evaluate.main, ["--version", "{number}", "--source", "{reviews}"]),
    "promote": (training.promote.main, ["--version", "{number}", "--force", "yes"]),
}


LOAD_EACH = """
import os, sys
import mlflow.pyfunc
for version in sys.argv[1:]:
    if os.fork() == 0:  # each in a process that no other attack has changed
        try:
            mlflow.pyfunc.load_model(version)
        finally:
            os._exit(0)
    os.wait()
"""


@pytest.mark.large
def test_loaded_as_mlflow_does_each_of_them_runs(
    store: MlflowClient, versions: Registry, tmp_path: Path
) -> None:
    """The control: without it, an attack that does nothing would pass for one that is held off."""
    versions.add()
    forged = []
    for name, attack in ATTACKS.items():
        (tmp_path / name).mkdir()
        made = versions.forge(partial(attack, canary=tmp_path / name / "canary"), tmp_path / name / "forged")
        forged.append(f"models:/{MODEL_NAME}/{made.number}")
    subprocess.run(
        [sys.executable, "-c", LOAD_EACH, *forged],
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"},
        capture_output=True,
        timeout=300,
    )
    for name in ATTACKS:
        assert (tmp_path / name / "canary").exists(), name


def refuse(version: Version, versions: Registry, tmp_path: Path, said: str) -> None:
    """Each command refuses a version that is in Production, or would become a canary, and runs nothing of it."""
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("text,label\na film,1\nanother film,0\n")
    for command, (main, options) in STARTED_BY_HAND.items():
        given = [option.format(number=version.number, reviews=reviews) for option in options]
        result: Result = CliRunner().invoke(main, given)
        assert result.exit_code != 0, command
        assert said in result.output, (command, result.output, result.exception)
    versions.promote(1)
    result = CliRunner().invoke(
        inference.service.canary.main, ["start", "--version", str(version.number), "--percent", "10"]
    )
    assert result.exit_code != 0
    assert said in result.output
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("attack", FEW)
def test_who_writes_the_artifact_store_runs_nothing(
    store: MlflowClient, versions: Registry, tmp_path: Path, attack: str
) -> None:
    versions.add()
    versions.promote(1)
    forged = find(store, versions.add())
    versions.promote(forged.number)
    folder = Path(store.get_model_version_download_uri(MODEL_NAME, str(forged.number)))
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    try:
        ATTACKS[attack](folder, tmp_path / "canary")
        refuse(forged, versions, tmp_path, "is not what was registered")
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


@pytest.mark.parametrize("attack", FEW)
def test_who_writes_the_registry_too_runs_nothing_where_signatures_are_asked_for(
    store: MlflowClient,
    versions: Registry,
    tmp_path: Path,
    attack: str,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions.add()
    forged = versions.forge(partial(ATTACKS[attack], canary=tmp_path / "canary"), tmp_path / "forged")
    assert forged.tags.items() >= digests(tmp_path / "forged").items()
    versions.promote(forged.number)
    monkeypatch.setenv("VERIFYING_KEY", str(keys[1]))
    refuse(forged, versions, tmp_path, "is not signed")


def test_a_rollback_to_a_version_without_a_signature_is_refused(
    versions: Registry, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.add()
    versions.promote(1)
    versions.promote(versions.add())
    monkeypatch.setenv("VERIFYING_KEY", str(keys[1]))
    result = CliRunner().invoke(training.rollback.main, [])
    assert result.exit_code != 0
    assert "version 1 is not signed" in result.output
    assert "Nothing was changed" in result.output


@pytest.mark.haproxy
@pytest.mark.large
def test_the_follower_runs_none_of_them(
    service: Service,
    versions: Registry,
    tmp_path: Path,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All in turn, under a key; the version that its owner signed serves on, and the next signed one follows."""
    private, public = keys
    versions.add()
    monkeypatch.setenv("SIGNING_KEY", str(private))
    assert CliRunner().invoke(training.promote.main, ["--version", "1", "--force", "yes"]).exit_code == 0
    service.start(FAST, VERIFYING_KEY=str(public))
    service.serves(1)
    for name, attack in ATTACKS.items():
        forged = versions.forge(partial(attack, canary=tmp_path / "canary"), tmp_path / name)
        versions.promote(forged.number)
        service.says(f"REFUSED: version {forged.number}, failure 1: ")
        assert f"version {forged.number} is not signed" in versions.wait_for_tag(
            forged.number, "serve_refused"
        )
        assert service.ready() == (200, "1")
    signed = versions.add()
    assert (
        CliRunner().invoke(training.promote.main, ["--version", str(signed), "--force", "yes"]).exit_code == 0
    )
    service.serves(signed)
    assert not (tmp_path / "canary").exists()


def test_a_follower_with_a_key_that_cannot_be_used_does_not_start(service: Service, tmp_path: Path) -> None:
    service.start(VERIFYING_KEY=str(tmp_path / "none"))
    assert service.process
    assert service.process.wait(60) != 0
    assert "is not a key that can be used" in service.said
