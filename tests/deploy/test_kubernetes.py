"""`server/deploy/kubernetes`: its form, and that it agrees with the server and with the image."""

import re
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.runtime.worker_process import KILL_AFTER_S
from tests.deploy.machine import REPOSITORY
from tests.support.harness import Server

KUBERNETES = REPOSITORY / "server/deploy/kubernetes"
CONTAINERFILE = (REPOSITORY / "server/deploy/Containerfile").read_text()

VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The oldest version that the README names, and the newest whose schemas are here."""


def resources(file: str) -> list[Any]:
    return list(yaml.safe_load_all((KUBERNETES / file).read_text()))


KUSTOMIZATION = resources("kustomization.yaml")[0]
FILES = [*KUSTOMIZATION["resources"], "migrate.yaml"]
(DEPLOYMENT,) = resources("deployment.yaml")
(JOB,) = resources("migrate.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_form(file: str, version: str) -> None:
    for resource in resources(file):
        kubernetes_validate.validate(resource, version, strict=True)


def test_every_file_is_used() -> None:
    assert {file.name for file in KUBERNETES.iterdir()} == {"kustomization.yaml", *FILES}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_makes_the_resources() -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = [(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(done.stdout)]
    written = [resource for file in KUSTOMIZATION["resources"] for resource in resources(file)]
    assert sorted(made) == sorted((each["kind"], each["metadata"]["name"]) for each in written)


def test_selectors_find_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    services, (budget,) = resources("services.yaml"), resources("disruption-budget.yaml")
    selectors = [service["spec"]["selector"] for service in services]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in (DEPLOYMENT, budget)]
    selectors += [each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]]
    assert selectors == [labels] * len(selectors)
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    for port in (port for service in services for port in service["spec"]["ports"]):
        assert ports[port["targetPort"]] == port["port"]


def test_probes_ask_what_the_server_answers(server: Server) -> None:
    probes = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"rest"}
    with server.client() as client:
        for probe in probes.values():
            assert client.get(probe["path"]).status_code == 200
    assert probes["livenessProbe"]["path"] != probes["readinessProbe"]["path"]


def test_a_drain_has_time() -> None:
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > wait + KILL_AFTER_S


@pytest.mark.parametrize("pod", [POD, JOB["spec"]["template"]["spec"]], ids=["deployment", "job"])
def test_pods_are_restricted(pod: Any) -> None:
    """What the level `restricted` of Pod Security asks for, and a read-only root file system."""
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["SLUICE_MONGODB_URL_FILE"] == f"{mount['mountPath']}/url"
    assert "--from-file=url=" in (KUBERNETES.parent / "README.md").read_text()
    assert "secret" in volume


def test_it_agrees_with_the_image() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    assert user is not None, "a number: Kubernetes cannot tell whether a name is root"
    assert POD["securityContext"]["fsGroup"] == int(user[2])
    exposed = re.search(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert exposed is not None
    assert [port["containerPort"] for port in CONTAINER["ports"]][:2] == [int(port) for port in exposed[1].split()]
