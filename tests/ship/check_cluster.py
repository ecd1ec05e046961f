"""The chart in a real cluster's API server, in namespaces that enforce the restricted standard.

The server validates, defaults and admits; no kubelet runs the pods. ``make chart-test``.
"""

from __future__ import annotations

import copy
import itertools
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ship.cluster import CUSTOM_RESOURCES, Cluster
from tests.ship.documents import PAGES_OF_THE_CHART, command_lines
from tests.ship.pods import pod_specs
from tests.ship.programs import CHART, EXAMPLES, HELM_VERSIONS, helm, objects_in

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


def new_namespace(cluster: Cluster) -> str:
    """With the account that a controller would make."""
    name = f"restricted-{next(NUMBERS)}"
    made = {"metadata": {"name": name, "labels": RESTRICTED}}
    cluster.create("/api/v1/namespaces", made).raise_for_status()
    account = {"metadata": {"name": "default"}}
    cluster.create(f"/api/v1/namespaces/{name}/serviceaccounts", account).raise_for_status()
    return name


def in_cluster(
    version: str, cluster: Cluster, namespace: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    access = ("--kubeconfig", cluster.kubeconfig, "--namespace", namespace)
    return helm(version, *arguments, *access)


def pod_of(template: dict[str, Any], name: str) -> dict[str, Any]:
    """The pod that a controller would make of a workload."""
    return {
        "metadata": {**template["metadata"], "name": name},
        "spec": template["spec"],
    }


def workloads(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    found = []
    for kind in ("deployments", "daemonsets"):
        found += cluster.get(f"/apis/apps/v1/namespaces/{namespace}/{kind}")["items"]
    return found


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("values", VALUES)
def test_it_is_installed_upgraded_and_removed_without_a_warning(
    cluster: Cluster, namespace: str, values: str, version: str
) -> None:
    named = ("tagfit", CHART, "--values", CHART / "ci" / values)
    installed = in_cluster(version, cluster, namespace, "install", *named)
    (workload,) = workloads(cluster, namespace)
    upgraded = in_cluster(version, cluster, namespace, "upgrade", *named, "--set=logLevel=debug")
    (changed,) = workloads(cluster, namespace)
    removed = in_cluster(version, cluster, namespace, "uninstall", "tagfit")

    for done in (installed, upgraded, removed):
        assert (done.returncode, done.stderr) == (0, "")
    assert changed["metadata"]["uid"] == workload["metadata"]["uid"]
    assert changed["metadata"]["generation"] > workload["metadata"]["generation"]
    assert workloads(cluster, namespace) == []


@pytest.mark.parametrize("page", PAGES_OF_THE_CHART, ids=lambda page: page.name)
def test_the_documented_installations_are_accepted(cluster: Cluster, page: Path) -> None:
    for line in command_lines(page, "helm"):
        words = shlex.split(line)[1:]
        if words[0] == "install":
            done = in_cluster(HELM_VERSIONS[-1], cluster, new_namespace(cluster), *words)
            assert (done.returncode, done.stderr) == (0, ""), line


@pytest.mark.parametrize("values", VALUES)
def test_its_pods_are_admitted_where_the_restricted_standard_is_enforced(
    cluster: Cluster, namespace: str, values: str
) -> None:
    named = ("tagfit", CHART, "--values", CHART / "ci" / values)
    in_cluster(HELM_VERSIONS[-1], cluster, namespace, "install", *named).check_returncode()
    (workload,) = workloads(cluster, namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    pod = pod_of(workload["spec"]["template"], "admitted")
    loose = copy.deepcopy(pod)
    loose["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True

    admitted = cluster.create(pods, pod)
    refused = cluster.create(pods, loose)

    assert admitted.status_code == 201, admitted.text
    assert refused.status_code == 403
    assert 'violates PodSecurity "restricted:latest"' in refused.json()["message"]


def test_its_test_is_admitted(cluster: Cluster, namespace: str) -> None:
    rendered = in_cluster(HELM_VERSIONS[-1], cluster, namespace, "template", "tagfit", CHART)
    (pod,) = [thing for thing in objects_in(rendered.stdout) if thing["kind"] == "Pod"]

    admitted = cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod)

    assert admitted.status_code == 201, admitted.text


def test_the_plain_pod_is_admitted(cluster: Cluster, namespace: str) -> None:
    for thing in objects_in((EXAMPLES / "pod.yaml").read_text()):
        kind = {"Pod": "pods", "ConfigMap": "configmaps", "Service": "services"}[thing["kind"]]
        admitted = cluster.create(f"/api/v1/namespaces/{namespace}/{kind}", thing)
        assert admitted.status_code == 201, admitted.text


def test_a_mistyped_field_would_be_refused(cluster: Cluster, namespace: str) -> None:
    """What the tests above rely on."""
    rendered = in_cluster(HELM_VERSIONS[-1], cluster, namespace, "template", "tagfit", CHART)
    (workload,) = [t for t in objects_in(rendered.stdout) if t["kind"] == "Deployment"]
    next(pod_specs([workload]))["enableServiceLink"] = False

    refused = cluster.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", workload)

    assert refused.status_code == 400
    assert "enableServiceLink" in refused.text
