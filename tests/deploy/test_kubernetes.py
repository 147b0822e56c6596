"""The manifests against the schemas of Kubernetes, and what they must say of every pod. No cluster ran them."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.31"


def documents() -> list[Any]:
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] != "Kustomization":
                name = document["metadata"].get("name") or document["metadata"]["generateName"]
                found.append(pytest.param(document, id=f"{document['kind']} {name}"))
    return found


def pod_of(document: Any) -> Any:
    """The specification of the pods that a document makes; None if it makes none."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template", {}).get("spec")


@pytest.mark.parametrize("document", documents())
def test_it_fits_the_schema(document: Any) -> None:
    named = document | {"metadata": {"name": "for-the-message"} | document["metadata"]}
    kubernetes_validate.validate(named, VERSION, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(named | {"metadata": {"name": 1}}, VERSION, strict=True)


@pytest.mark.parametrize("document", [each for each in documents() if pod_of(each.values[0])])
def test_its_pods_may_do_no_more_than_they_must(document: Any) -> None:
    pod = pod_of(document)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]["memory"]


def test_everything_but_the_job_is_in_the_kustomization() -> None:
    listed = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name for path in (FOLDER / "base").glob("*.yaml") if path.name != "kustomization.yaml"
    )


def test_a_rollout_of_the_service_takes_nothing_away() -> None:
    (api,) = [
        each.values[0]
        for each in documents()
        if each.values[0]["kind"] == "Deployment" and each.values[0]["metadata"]["name"] == "api"
    ]
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (container,) = api["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_job_is_the_one_that_runs_every_week() -> None:
    job = yaml.safe_load((FOLDER / "training-job.yaml").read_text())
    weekly = yaml.safe_load((FOLDER / "base" / "training.yaml").read_text())
    assert job["spec"] == weekly["spec"]["jobTemplate"]["spec"]
