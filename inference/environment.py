"""Check that a version can be served with the Python and the packages installed here."""

import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import yaml
from packaging.requirements import InvalidRequirement, Requirement

from registry.errors import RegistryError
from registry.extras import EXTRAS

CONSTRAINTS = "-c constraints.txt"  # the line of requirements.txt that refers to constraints.txt
LISTED = 5  # of the indirect packages that differ


class EnvironmentDiffersError(RegistryError):
    """The version needs a different Python or different direct dependencies."""


def check_environment(copy: Path) -> None:
    """Compare the Python and the packages that a version was trained with to those of this process.

    Python and the direct dependencies (``requirements.txt``, under ten) compute the answers, so they must match exactly. Indirect
    dependencies (``constraints.txt``, about 90) may differ, for example after a security update; differences are logged.

    Parameters
    ----------
    copy : Path
        What :func:`registry.versions.fetch` returned.

    Raises
    ------
    EnvironmentDiffersError
        If Python or a direct dependency differs, or a file of pins cannot be read. The message names each.
    """
    try:
        python = yaml.safe_load((copy / "python_env.yaml").read_text())["python"]
        lines = [line for line in (copy / "requirements.txt").read_text().split("\n") if line.strip()]
        pins = [Requirement(line) for line in lines if line != CONSTRAINTS]
        indirect = []
        if CONSTRAINTS in lines:
            indirect = [Requirement(line) for line in (copy / "constraints.txt").read_text().split()]
    except (OSError, yaml.YAMLError, LookupError, TypeError, UnicodeError, InvalidRequirement) as error:
        raise EnvironmentDiffersError(f"its requirements cannot be read: {error}") from None
    differ = [f"Python {python} (here {platform.python_version()})"] * (python != platform.python_version())
    differ += _differences(pins)
    if differ:
        missing = {EXTRAS[pin.name] for pin in pins if pin.name in EXTRAS and not find_spec(pin.name)}
        install = (
            f"{' and '.join(f'make env-{extra}' for extra in sorted(missing))} installs what is missing; or "
            * bool(missing)
        )
        raise EnvironmentDiffersError(
            f"it was trained in a different environment: {', '.join(differ)}; {install}train again in this environment, "
            "or serve from the original one"
        )
    if others := _differences(indirect):
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        logging.getLogger("follow").warning(
            "%d of %d indirect dependencies differ from those of training: %s%s",
            len(others),
            len(indirect),
            ", ".join(others[:LISTED]),
            more,
        )


def _differences(pins: list[Requirement]) -> list[str]:
    """Return the pins that this environment does not meet, each with what is here."""
    differ = []
    for pin in pins:
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            here = version(pin.name)
        except PackageNotFoundError:
            here = "missing"
        if here == "missing" or not pin.specifier.contains(here, prereleases=True):
            differ.append(f"{pin.name}{pin.specifier} (here {here})")
    return differ
