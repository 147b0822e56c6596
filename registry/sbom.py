"""What a version was trained with, or an image holds: a bill of materials in CycloneDX."""

import json
import subprocess
from collections.abc import Sequence

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from registry.errors import RegistryError

# what runs in the Python that is asked, wherever that is: name, version and license of each package
LIST = """
import csv, importlib.metadata, json
found = {}
for package in importlib.metadata.distributions():
    # an image keeps what tells the version of pip, which MLflow asks for, and not pip
    record = csv.reader((package.read_text("RECORD") or "").splitlines())
    files = [file for file, *_ in record if ".dist-info/" not in file]
    if files and not any(package.locate_file(file).exists() for file in files):
        continue
    about = package.metadata
    classified = [c for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    text = (about.get("License") or "").strip()
    license = about.get("License-Expression") or (text if 0 < len(text) <= 60 else "")
    if not license and classified:
        license = classified[-1].rsplit(" :: ", 1)[-1]
    # of two by one name the first is what an import finds
    found.setdefault(about["Name"].lower(), [about["Name"], package.version, license])
print(json.dumps(sorted(found.values())))
"""


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
    asked = subprocess.run([*python, "-c", LIST], capture_output=True, text=True)
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
