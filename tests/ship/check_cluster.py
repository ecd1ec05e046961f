"""The chart in a real cluster's API server, in namespaces that enforce the restricted standard.

The server validates, defaults and admits; no kubelet runs the pods. ``make chart-test``.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.real.registry import Registry
from tests.ship.cluster import CUSTOM_RESOURCES, Cluster
from tests.ship.documents import PAGES_OF_THE_CHART, command_blocks
from tests.ship.pods import containers, pod_specs
from tests.ship.programs import CHART, EXAMPLES, HELM_VERSIONS, helm, objects_in
from tests.ship.reader import reading
from tests.ship.test_examples import OLLAMA_CHART

VALUES = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))
RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        for kind in CUSTOM_RESOURCES:
            cluster.define(kind)
        runtime = {"metadata": {"name": "nvidia"}, "handler": "nvidia"}
        cluster.create("/apis/node.k8s.io/v1/runtimeclasses", runtime).raise_for_status()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    return new_namespace(cluster)


def new_namespace(cluster: Cluster, labels: Mapping[str, str] = RESTRICTED) -> str:
    """With the account that a controller would make."""
    name = f"namespace-{next(NUMBERS)}"
    made = {"metadata": {"name": name, "labels": {**labels}}}
    cluster.create("/api/v1/namespaces", made).raise_for_status()
    account = {"metadata": {"name": "default"}}
    cluster.create(f"/api/v1/namespaces/{name}/serviceaccounts", account).raise_for_status()
    return name


def in_cluster(
    version: str, cluster: Cluster, namespace: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    access = ("--kubeconfig", cluster.kubeconfig, "--namespace", namespace)
    return helm(version, *arguments, *access)


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("values", VALUES)
def test_it_is_installed_used_as_its_notes_say_upgraded_and_removed(
    cluster: Cluster, namespace: str, values: str, version: str, tmp_path: Path
) -> None:
    """Its pods are admitted, its test passes, no line has a warning, and nothing stays behind."""
    named = f"tagfit helm/tagfit --values helm/tagfit/ci/{values}"
    with reading(cluster, namespace, version, tmp_path) as reader:
        notes = reader.type(f"helm install {named}")
        (workload,) = cluster.workloads(namespace)
        commands = [line.strip() for line in notes.splitlines() if line.startswith("  ")]
        answers = [reader.type(line) for line in commands]
        reader.type(f"helm upgrade {named} --set logLevel=debug")
        (changed,) = cluster.workloads(namespace)
        reader.type("helm get manifest tagfit > installed.yaml")
        reader.type("helm uninstall tagfit")
        left = reader.type("kubectl get --filename installed.yaml --ignore-not-found")

    assert [line.split()[0] for line in commands] == ["kubectl", "curl", "helm"]
    assert json.loads(answers[1])["recommendations"]
    assert "Succeeded" in answers[2]
    assert changed["metadata"]["uid"] == workload["metadata"]["uid"]
    assert changed["metadata"]["generation"] > workload["metadata"]["generation"]
    assert left == ""


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_any_values_can_follow_any_others(cluster: Cluster, namespace: str, version: str) -> None:
    """No field that cannot be changed, and nothing of the values before stays."""
    specifications: dict[str, Any] = {}
    for values in every_succession(VALUES):
        named = ("tagfit", CHART, "--values", CHART / "ci" / values)
        # Without --reset-values an empty file of values would keep those before.
        upgrade = ("upgrade", "--install", "--reset-values", "--history-max=2")
        changed = in_cluster(version, cluster, namespace, *upgrade, *named)
        assert (changed.returncode, changed.stderr) == (0, ""), values
        (workload,) = cluster.workloads(namespace)
        assert specifications.setdefault(values, workload["spec"]) == workload["spec"]

    back = in_cluster(version, cluster, namespace, "rollback", "tagfit")
    assert (back.returncode, back.stderr) == (0, "")


def test_one_helm_goes_on_where_the_other_began(cluster: Cluster, namespace: str) -> None:
    """One merges three versions of an object, the other has the server apply what it owns.

    What the autoscaler has set stays.
    """
    values = ("--values", CHART / "ci" / "available-values.yaml")
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/tagfit"
    replicas = 1
    for version in (*HELM_VERSIONS, *HELM_VERSIONS):
        changed = in_cluster(
            version, cluster, namespace, "upgrade", "--install", "tagfit", CHART, *values,
            f"--set=podAnnotations.by={version}",
        )  # fmt: skip
        assert (changed.returncode, changed.stderr) == (0, "")
        upgraded = cluster.get(deployment)["spec"]
        assert upgraded["template"]["metadata"]["annotations"]["by"] == version
        assert upgraded["replicas"] == replicas
        replicas += 1
        cluster.patch(f"{deployment}/scale", {"spec": {"replicas": replicas}})


def test_the_public_ollama_chart_takes_the_sidecar(cluster: Cluster) -> None:
    """As the example says; that chart's own container does not keep the restricted standard."""
    example = (EXAMPLES / "ollama-helm-sidecar.yaml").read_text()
    (line,) = re.findall(r"^# +helm (install .*)$", example, re.MULTILINE)
    words = line.replace("ollama --repo https://otwld.github.io/helm/", str(OLLAMA_CHART)).split()
    namespace = new_namespace(cluster, {})

    installed = in_cluster(HELM_VERSIONS[-1], cluster, namespace, *words)
    (pod,) = cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]

    assert (installed.returncode, installed.stderr) == (0, "")
    assert [container["name"] for container in containers(pod["spec"])] == ["tagfit", "ollama"]


def every_succession(names: Sequence[str]) -> Iterator[str]:
    """Each name right after each other one, somewhere."""
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            yield from (name, other)
        yield name


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("page", PAGES_OF_THE_CHART, ids=lambda page: page.name)
def test_the_documented_commands_work(
    cluster: Cluster, page: Path, version: str, registry: Registry, tmp_path: Path
) -> None:
    """As written, but for the registry; each block in an empty namespace that enforces the
    restricted standard."""
    charts = f"--plain-http oci://{registry.host}/documented-{version}"
    for number, block in enumerate(command_blocks(page)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with reading(cluster, new_namespace(cluster), version, folder) as reader:
            for line in block:
                reader.type(line.replace("oci://registry.example.org/charts", charts))


def test_a_pod_less_confined_would_be_refused(cluster: Cluster, namespace: str) -> None:
    """What the tests above rely on."""
    rendered = in_cluster(HELM_VERSIONS[-1], cluster, namespace, "template", "tagfit", CHART)
    (pod,) = [thing for thing in objects_in(rendered.stdout) if thing["kind"] == "Pod"]
    del pod["spec"]["serviceAccountName"]
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True

    refused = cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod)

    assert refused.status_code == 403
    assert 'violates PodSecurity "restricted:latest"' in refused.json()["message"]


def test_a_mistyped_field_would_be_refused(cluster: Cluster, namespace: str) -> None:
    """As above."""
    rendered = in_cluster(HELM_VERSIONS[-1], cluster, namespace, "template", "tagfit", CHART)
    (workload,) = [t for t in objects_in(rendered.stdout) if t["kind"] == "Deployment"]
    next(pod_specs([workload]))["enableServiceLink"] = False

    refused = cluster.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", workload)

    assert refused.status_code == 400
    assert "enableServiceLink" in refused.text
