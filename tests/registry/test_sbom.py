import importlib.metadata
import json
import sys

import pytest
from cyclonedx.model.component import ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from registry.errors import RegistryError
from registry.packages import packages
from registry.sbom import bill_of_materials
from tests.test_environments import pins


def test_every_package_stands_in_it_by_the_standard() -> None:
    text = bill_of_materials([sys.executable], ComponentType.MACHINE_LEARNING_MODEL, "Model", "1")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    found = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    assert found == {
        canonicalize_name(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()
    }
    for name, (pin, _) in pins("run").items():
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(found[name]), pin
    assert bill["metadata"]["component"]["name"] == "Model"
    unlicensed = [one["name"] for one in bill["components"] if not one.get("licenses")]
    assert len(unlicensed) < 10, unlicensed


def test_an_interpreter_that_is_not_there_is_no_empty_bill() -> None:
    with pytest.raises(RegistryError, match="does not say which packages it has"):
        bill_of_materials(["false"], ComponentType.CONTAINER, "image", "1")


def test_the_program_names_what_is_installed_here() -> None:
    found = {name.lower(): (version, license_) for name, version, license_ in packages()}
    assert found["pytest"] == (importlib.metadata.version("pytest"), "MIT")
