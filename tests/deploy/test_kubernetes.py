"""The manifests against the schemas of Kubernetes, and what they must say of every pod. No cluster ran them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.31"


needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl is not installed: it puts the production overlay together"
)


def production(folder: Path = FOLDER) -> list[Any]:
    """What `kubectl apply -k deploy/kubernetes/production` would send; nothing where there is no kubectl."""
    if not shutil.which("kubectl"):
        return []
    build = ["kubectl", "kustomize", str(folder / "production")]
    return list(yaml.safe_load_all(subprocess.run(build, check=True, capture_output=True, text=True).stdout))


def documents() -> list[Any]:
    """The documents of the base, the jobs, and the production overlay as it is put together."""
    found = []
    for path in sorted([*FOLDER.glob("*.yaml"), *(FOLDER / "base").glob("*.yaml")]):
        found += [("", each) for each in yaml.safe_load_all(path.read_text())]
    found += [("production ", each) for each in production()]
    return [
        pytest.param(each, id=f"{where}{each['kind']} {name_of(each)}")
        for where, each in found
        if each["kind"] != "Kustomization"
    ]


def name_of(document: Any) -> str:
    return str(document["metadata"].get("name") or document["metadata"]["generateName"])


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


def test_the_namespace_refuses_pods_that_may_do_more() -> None:
    namespace = yaml.safe_load((FOLDER / "base" / "namespace.yaml").read_text())
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", ["base", "production", "signed"])
def test_every_file_is_in_the_kustomization(folder: str) -> None:
    told = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
    listed = {*told.get("resources", []), *(patch["path"] for patch in told.get("patches", []))}
    there = {path.name for path in (FOLDER / folder).glob("*.yaml")}
    assert listed - {"../base"} == there - {"kustomization.yaml"}


@needs_kubectl
def test_keys_reach_the_pods_that_sign_and_verify(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    with (tmp_path / "kubernetes" / "production" / "kustomization.yaml").open("a") as file:
        file.write("components: [../signed]\n")
    signed = {(one["kind"], name_of(one)): one for one in production(tmp_path / "kubernetes")}
    for kind, name, variable, secret in (
        ("Deployment", "api", "VERIFYING_KEY", "verifying-key"),
        ("CronJob", "retrain", "SIGNING_KEY", "signing-key"),
    ):
        document = signed[kind, name]
        kubernetes_validate.validate(document, VERSION, strict=True)
        pod = pod_of(document)
        (container,) = pod["containers"]
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (path,) = [one["value"] for one in container["env"] if one["name"] == variable]
        assert Path(path).parent == Path(places["keys"])
        assert {"tmp"} < places.keys(), "what was there before stays"
        assert [one["secret"]["secretName"] for one in pod["volumes"] if one["name"] == "keys"] == [secret]


def test_a_rollout_of_the_service_takes_nothing_away() -> None:
    apis = [
        document
        for (document,) in (each.values for each in documents())
        if document["kind"] == "Deployment" and document["metadata"]["name"] == "api"
    ]
    assert apis
    for api in apis:
        assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert "replicas" not in api["spec"], "an apply would undo what the HorizontalPodAutoscaler did"
        (container,) = api["spec"]["template"]["spec"]["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_job_is_the_one_that_runs_every_week() -> None:
    job = yaml.safe_load((FOLDER / "training-job.yaml").read_text())
    weekly = yaml.safe_load((FOLDER / "base" / "training.yaml").read_text())
    assert job["spec"] == weekly["spec"]["jobTemplate"]["spec"]


@pytest.fixture(scope="module")
def overlay() -> dict[str, Any]:
    """The objects of the production overlay by kind and name."""
    return {f"{each['kind']} {name_of(each)}": each for each in production()}


@needs_kubectl
def test_production_has_its_tracking_servers_on_no_volume(overlay: dict[str, Any]) -> None:
    spec = overlay["Deployment mlflow-server"]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    pod = spec["template"]["spec"]
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    assert [mount["name"] for mount in pod["containers"][0]["volumeMounts"]] == ["tmp"]
    assert not [name for name in overlay if name.startswith("PersistentVolumeClaim")]
    assert "sqlite" not in yaml.safe_dump_all(overlay.values())


@needs_kubectl
def test_what_is_secret_comes_from_a_secret_that_is_in_no_file(overlay: dict[str, Any]) -> None:
    (server,) = pod_of(overlay["Deployment mlflow-server"])["containers"]
    (job,) = pod_of(yaml.safe_load((FOLDER / "database-job.yaml").read_text()))["containers"]
    of_server, of_job = ({each["name"]: each for each in container["env"]} for container in (server, job))
    for name in ("MLFLOW_BACKEND_STORE_URI", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        reference = {"secretKeyRef": {"name": "registry", "key": name}}
        assert of_server[name] == {"name": name, "valueFrom": reference}
    assert of_job == {"MLFLOW_BACKEND_STORE_URI": of_server["MLFLOW_BACKEND_STORE_URI"]}
    assert of_server["MLFLOW_ARTIFACTS_DESTINATION"]["value"].startswith("s3://")
    assert of_server["MLFLOW_S3_ENDPOINT_URL"]["value"].startswith("https://")
    assert not [name for name in overlay if name.startswith("Secret")]


@needs_kubectl
def test_production_has_more_pods_on_more_machines(overlay: dict[str, Any]) -> None:
    scaling = overlay["HorizontalPodAutoscaler api"]["spec"]
    assert scaling["minReplicas"] >= 3
    least = {
        "api": scaling["minReplicas"],
        "mlflow-server": overlay["Deployment mlflow-server"]["spec"]["replicas"],
    }
    for name, pods in least.items():
        template = overlay[f"Deployment {name}"]["spec"]["template"]
        budget = overlay[f"PodDisruptionBudget {name}"]["spec"]
        assert 0 < budget["minAvailable"] < pods, "a machine could never be emptied"
        spread = template["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for selector in [budget["selector"], *(each["labelSelector"] for each in spread)]:
            assert selector == {"matchLabels": template["metadata"]["labels"]}


@needs_kubectl
def test_every_pod_of_production_has_the_released_image(overlay: dict[str, Any]) -> None:
    pods = [pod for pod in map(pod_of, overlay.values()) if pod]
    assert len(pods) == 3
    for pod in pods:
        assert [each["image"] for each in pod["containers"]] == ["registry.example.com/sentiment-model:1.0.0"]


@needs_kubectl
def test_only_what_needs_the_database_and_the_bucket_may_leave_the_namespace(overlay: dict[str, Any]) -> None:
    """Beside DNS. The policies add up, and the pods' own traffic goes to pods that are named."""
    beyond = {
        name: [port["port"] for rule in each["spec"]["egress"] if "to" not in rule for port in rule["ports"]]
        for name, each in overlay.items()
        if each["kind"] == "NetworkPolicy" and "egress" in each["spec"] and name != "NetworkPolicy dns"
    }
    assert beyond == {
        "NetworkPolicy api": [],
        "NetworkPolicy train": [],
        "NetworkPolicy database": [5432],
        "NetworkPolicy artifacts": [443],
    }
    (who,) = overlay["NetworkPolicy database"]["spec"]["podSelector"]["matchExpressions"]
    job = yaml.safe_load((FOLDER / "database-job.yaml").read_text())
    assert who["values"] == [
        each["spec"]["template"]["metadata"]["labels"][who["key"]]
        for each in (overlay["Deployment mlflow-server"], job)
    ]
    assert "ipBlock" not in yaml.safe_dump_all(overlay.values())
