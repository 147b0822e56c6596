"""What a version was trained with, or an image holds: a bill of materials in CycloneDX."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from registry.errors import RegistryError

PROGRAM = Path(__file__).with_name("packages.py")


def bill_of_materials(python: Sequence[str], kind: ComponentType, name: str, version: str) -> str:
    """Return the packages of a Python environment, with versions and licenses, as CycloneDX 1.6 in JSON.

    Parameters
    ----------
    python : sequence of str
        The command of its interpreter, also one in a container.
    kind : ComponentType
        What is described.
    name, version : str
        Its name, and which of them.

    Raises
    ------
    RegistryError
        If the interpreter cannot be asked.
    """
    asked = subprocess.run([*python, "-c", PROGRAM.read_text()], capture_output=True, text=True)
    if asked.returncode:
        command, why = " ".join(python), asked.stderr.strip()[-300:]
        raise RegistryError(f"'{command}' does not say which packages it has: {why or asked.returncode}")
    licenses = LicenseFactory()
    bom = Bom()
    bom.metadata.component = Component(type=kind, name=name, version=version)
    for package, number, license_ in json.loads(asked.stdout):
        bom.components.add(
            Component(
                type=ComponentType.LIBRARY,
                name=package,
                version=number,
                purl=(purl := PackageURL("pypi", name=canonicalize_name(package), version=number)),
                bom_ref=str(purl),
                licenses=[licenses.make_from_string(license_)] if license_ else [],
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
