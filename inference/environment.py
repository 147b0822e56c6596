"""Whether this environment is the one that a version was trained with."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from packaging.requirements import InvalidRequirement, Requirement

from registry.errors import RegistryError


class EnvironmentDiffersError(RegistryError):
    """A version asks for another Python or other packages than those that would serve it."""


def check_environment(copy: Path) -> None:
    """Compare the Python and the pins that a version carries with those of this process.

    Parameters
    ----------
    copy : Path
        What :func:`registry.versions.fetch` returned.

    Raises
    ------
    EnvironmentDiffersError
        If one of them differs or cannot be read. The message names each.
    """
    try:
        python = yaml.safe_load((copy / "python_env.yaml").read_text())["python"]
        lines = (copy / "requirements.txt").read_text().split("\n")
        pins = [Requirement(line) for line in lines if line.strip()]
    except (OSError, yaml.YAMLError, LookupError, TypeError, UnicodeError, InvalidRequirement) as error:
        raise EnvironmentDiffersError(f"what it needs cannot be read: {error}") from None
    differ = []
    if python != platform.python_version():
        differ.append(f"Python {python} (here {platform.python_version()})")
    for pin in pins:
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            here = version(pin.name)
        except PackageNotFoundError:
            here = "missing"
        if here == "missing" or not pin.specifier.contains(here, prereleases=True):
            differ.append(f"{pin.name}{pin.specifier} (here {here})")
    if differ:
        raise EnvironmentDiffersError(
            f"it was trained with another environment: {', '.join(differ)}; train again with this one, "
            "or serve with that one"
        )
