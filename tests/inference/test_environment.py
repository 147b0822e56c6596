"""A version whose Python or pins differ from ours is refused, and the message names each."""

import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from inference.environment import EnvironmentDiffersError, check_environment


def write(folder: Path, python: str, *pins: str) -> Path:
    (folder / "python_env.yaml").write_text(f"python: {python}\n")
    (folder / "requirements.txt").write_text("\n".join(pins) + "\n")
    return folder


def test_our_own_environment_is_taken(tmp_path: Path) -> None:
    pins = [f"{name}=={version(name)}" for name in ("mlflow", "pandas")]
    check_environment(
        write(tmp_path, platform.python_version(), *pins, 'pywin32==1; sys_platform == "win32"')
    )


def test_all_that_differs_is_named(tmp_path: Path) -> None:
    write(tmp_path, "3.9.1", "mlflow==1.0", f"pandas=={version('pandas')}", "no-such-package==2")
    with pytest.raises(EnvironmentDiffersError) as caught:
        check_environment(tmp_path)
    message = caught.value.message
    assert f"Python 3.9.1 (here {platform.python_version()})" in message
    assert f"mlflow==1.0 (here {version('mlflow')})" in message
    assert "no-such-package==2 (here missing)" in message
    assert "pandas" not in message


def test_indirect_dependencies_that_differ_are_logged_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, platform.python_version(), f"mlflow=={version('mlflow')}", "-c constraints.txt")
    names = ("starlette", "fastapi", "flask", "alembic", "anyio", "docker", "pandas")
    others = [f"{name}==0.0.1" for name in names]
    (tmp_path / "constraints.txt").write_text("\n".join([*others, f"click=={version('click')}"]))
    check_environment(tmp_path)
    (line,) = caplog.messages
    assert line.startswith(
        "7 of 8 indirect dependencies differ from those of training: starlette==0.0.1 (here "
    )
    assert line.endswith("and 2 more")
    assert "click" not in line
    (tmp_path / "constraints.txt").unlink()
    with pytest.raises(EnvironmentDiffersError, match="cannot be read"):
        check_environment(tmp_path)


def test_a_missing_package_of_an_extra_names_its_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.environment.find_spec", lambda name: None)
    write(tmp_path, platform.python_version(), "onnxruntime==0.0.1", "tokenizers==0.0.1")
    with pytest.raises(
        EnvironmentDiffersError, match=r"make env-onnx installs what is missing; or train again"
    ):
        check_environment(tmp_path)


@pytest.mark.parametrize("file", ["python_env.yaml", "requirements.txt"])
@pytest.mark.parametrize("content", [None, "::", "[", "no-such-package"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, file: str, content: str | None) -> None:
    write(tmp_path, platform.python_version(), "mlflow")
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(EnvironmentDiffersError):
        check_environment(tmp_path)
