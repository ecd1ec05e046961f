from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tagfit.app import create_server_app
from tagfit.settings import Settings
from tests.real.serving import served
from tests.ship.cluster import CUSTOM_RESOURCES
from tests.ship.pods import (
    MEMORY_BYTES,
    containers,
    pod_specs,
    settings_of,
    tagfit_container,
    violations,
)
from tests.ship.programs import (
    CHART,
    HELM_VERSIONS,
    KUBERNETES,
    helm,
    helm_docs,
    render,
    schema_error,
)
from tests.ship.values_schema import write_schema

HELM = HELM_VERSIONS[-1]
VALUES = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))
FIRST_WITH_CLAIMS = "1.34"


def rendered(values: str, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    return render(HELM, CHART, "--values", CHART / "ci" / values, *arguments, **options)


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = of_kinds(objects, kind)
    return found


def of_kinds(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [thing for thing in objects if thing["kind"] == kind]


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("values", VALUES)
def test_both_helms_find_nothing_to_say(version: str, values: str) -> None:
    linted = helm(
        version, "lint", "--strict", "--quiet", f"--kube-version={KUBERNETES[-1]}.0", CHART,
        "--values", CHART / "ci" / values,
    )  # fmt: skip

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("values", VALUES)
def test_both_helms_make_the_same_objects(values: str) -> None:
    old, new = (
        render(version, CHART, "--values", CHART / "ci" / values) for version in HELM_VERSIONS
    )

    assert old == new


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_knows_every_field(values: str, kubernetes: str) -> None:
    if "claim" in values and kubernetes < FIRST_WITH_CLAIMS:
        refused = helm(
            HELM, "template", CHART, f"--kube-version={kubernetes}.0",
            "--values", CHART / "ci" / values,
        )  # fmt: skip
        assert "needs Kubernetes 1.34" in refused.stderr
        return

    errors = {
        f"{thing['kind']} {thing['metadata']['name']}": error
        for thing in rendered(values, kubernetes=kubernetes)
        if thing["kind"] not in CUSTOM_RESOURCES
        and (error := schema_error(thing, kubernetes)) is not None
    }

    assert errors == {}


@pytest.mark.parametrize("values", VALUES)
def test_every_pod_keeps_the_restricted_standard(values: str) -> None:
    pods = list(pod_specs(rendered(values)))

    assert [violations(pod) for pod in pods] == [[]] * 2  # the workload and the test
    for pod in pods:
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("values", VALUES)
def test_the_program_accepts_its_environment(values: str) -> None:
    objects = rendered(values, "--namespace=tools")
    settings = settings_of(tagfit_container(objects))
    service = of_kind(objects, "Service")["metadata"]["name"]

    outside = {rule["host"] for o in of_kinds(objects, "Ingress") for rule in o["spec"]["rules"]}
    outside |= {name for o in of_kinds(objects, "HTTPRoute") for name in o["spec"]["hostnames"]}

    names = {service, f"{service}.tools", f"{service}.tools.svc", *outside}
    assert names <= {*settings.allowed_hosts}


@pytest.mark.parametrize("values", VALUES)
def test_no_probe_depends_on_ollama_and_shutdown_has_time(values: str) -> None:
    objects = rendered(values)
    tagfit = tagfit_container(objects)
    probes = {kind: tagfit[kind]["httpGet"]["path"] for kind in tagfit if kind.endswith("Probe")}
    pod = next(pod_specs([thing for thing in objects if thing["kind"] != "Pod"]))
    settings = settings_of(tagfit)

    assert probes.pop("readinessProbe") == "/readyz"
    assert probes.pop("livenessProbe") == "/livez"
    assert set(probes.values()) <= {"/livez"}
    assert (
        pod["terminationGracePeriodSeconds"]
        > settings.shutdown_timeout + tagfit["lifecycle"]["preStop"]["sleep"]["seconds"]
    )


@pytest.mark.parametrize("values", VALUES)
def test_the_service_and_the_policy_reach_the_containers(values: str) -> None:
    objects = rendered(values)
    service = of_kind(objects, "Service")["spec"]
    (workload,) = [thing for thing in objects if "template" in thing.get("spec", {})]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    ports = {
        port["containerPort"]
        for container in containers(workload["spec"]["template"]["spec"])
        for port in container["ports"]
    }
    policies = [thing["spec"] for thing in objects if thing["kind"] == "NetworkPolicy"]

    assert service["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["ports"]} == ports
    assert workload["spec"]["selector"]["matchLabels"] == service["selector"]
    for policy in policies:
        assert policy["podSelector"]["matchLabels"] == service["selector"]
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
        assert {53} < {port["port"] for rule in policy["egress"] for port in rule["ports"]} or (
            "OLLAMA_HOST" not in str(workload)
        )


@pytest.mark.parametrize("values", VALUES)
def test_its_test_runs_where_it_runs_and_is_let_in(values: str) -> None:
    """A caller reaches the pod of its own node only, in mode node; and the policy may be narrow."""
    objects = rendered(values)
    test = of_kind(objects, "Pod")
    (pod,) = [pod for pod in pod_specs(objects) if pod is not test["spec"]]
    peers = [peer for o in of_kinds(objects, "NetworkPolicy") for peer in peers_of(o)]
    selected = of_kind(objects, "Service")["spec"]["selector"]

    for where in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
        assert test["spec"].get(where) == pod.get(where)
    assert not selected.items() <= test["metadata"]["labels"].items()
    assert peers == [] or any(
        peer["podSelector"].get("matchLabels") == test["metadata"]["labels"]
        for peer in peers
        if "podSelector" in peer
    )


def peers_of(policy: dict[str, Any]) -> list[dict[str, Any]]:
    (rule,) = policy["spec"]["ingress"]
    peers: list[dict[str, Any]] = rule["from"]
    return peers


def test_standalone_takes_no_gpu_and_no_ollama_for_granted() -> None:
    tagfit = tagfit_container(rendered("standalone-values.yaml"))
    environment = {variable["name"]: variable.get("value") for variable in tagfit["env"]}

    assert environment["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "OLLAMA_HOST" not in environment


def test_replicas_are_left_to_the_autoscaler_and_kept_by_a_budget() -> None:
    objects = rendered("available-values.yaml")

    assert "replicas" not in of_kind(objects, "Deployment")["spec"]
    assert of_kind(objects, "HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1
    assert of_kind(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_node_is_answered_for_by_a_pod_without_a_memory_limit_of_its_own() -> None:
    objects = rendered("node-values.yaml")
    tagfit = tagfit_container(objects)
    limited = helm(
        HELM, "template", CHART, f"--kube-version={KUBERNETES[-1]}.0", "--set", "mode=node",
        "--set", "resources.limits.memory=1Gi",
    )  # fmt: skip

    assert "limits" not in tagfit["resources"]
    assert "would be taken for the memory of the node" in limited.stderr
    assert of_kind(objects, "Service")["spec"]["internalTrafficPolicy"] == "Local"
    assert settings_of(tagfit).ollama_url == "http://192.0.2.7:11434"


@pytest.mark.parametrize("values", [name for name in VALUES if name.startswith("sidecar")])
def test_a_sidecar_counts_with_the_limits_and_settings_of_ollama(values: str) -> None:
    (pod,) = [pod for pod in pod_specs(rendered(values)) if pod["containers"][0]["name"] != "ask"]
    (tagfit,), (ollama,) = pod["initContainers"], pod["containers"]
    limit = next(v for v in tagfit["env"] if v["name"] == "TAGFIT_OLLAMA_MEMORY_LIMIT")
    shared = [variable for variable in ollama["env"] if "KV_CACHE" in variable["name"]]

    assert tagfit["restartPolicy"] == "Always"
    assert "startupProbe" not in tagfit  # Ollama would wait for it
    assert limit["valueFrom"]["resourceFieldRef"] == {
        "containerName": ollama["name"],
        "resource": "limits.memory",
    }
    assert settings_of(tagfit).ollama_memory_limit == MEMORY_BYTES
    assert all(variable in tagfit["env"] for variable in shared)
    assert tagfit["resources"].get("claims") == ollama["resources"].get("claims")


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_the_user_can_be_left_to_the_cluster(version: str) -> None:
    unset = [f"--set=podSecurityContext.{name}=null" for name in ("runAsUser", "fsGroup")]

    for pod in pod_specs(render(version, CHART, *unset)):
        assert pod["securityContext"].keys().isdisjoint({"runAsUser", "fsGroup"})
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("mode=cluster", "mode"),
        ("replicas=2", "replicas"),
        ("gpu.count=1", "gpu"),
        ("image.digest=sha256:1", "digest"),
        ("service.port=0", "port"),
        ("ingress.enabled=true", "ingress.hosts"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs"),
        ("logLevel=loud", "logLevel"),
        ("ollama.env.OLLAMA_HOST=elsewhere", "OLLAMA_HOST"),
        ("ollama.env.PATH=/", "PATH"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, why: str) -> None:
    refused = helm(HELM, "template", CHART, "--kube-version=1.37.0", "--set", setting)

    assert refused.returncode != 0
    assert why in refused.stderr


def test_the_schema_is_closed_and_knows_exactly_the_values() -> None:
    """A mistyped value is refused; a value nobody reads cannot be set."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    del schema["properties"]["global"]  # given to every chart by Helm

    assert set(schema_paths(schema)) == set(value_paths(values, schema))


def schema_paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    if "properties" not in schema:
        yield path
        return
    assert schema["additionalProperties"] is False, path
    for name, below in schema["properties"].items():
        if name in {"requests", "limits", "claims"}:  # of a container, in Kubernetes' own words
            yield path
        else:
            yield from schema_paths(below, f"{path}.{name}")


def value_paths(values: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    if not isinstance(values, dict) or not schema.get("properties") or path.endswith("resources"):
        yield path
        return
    for name, below in values.items():
        yield from value_paths(below, schema["properties"].get(name, {}), f"{path}.{name}")


@pytest.mark.parametrize(
    ("write", "name"), [(helm_docs, "README.md"), (write_schema, "values.schema.json")]
)
def test_readme_and_schema_are_made_from_the_values(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    chart = tmp_path / "tagfit"
    shutil.copytree(CHART, chart)
    write(chart)

    assert (CHART / name).read_text() == (chart / name).read_text()


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    config = of_kind(rendered("available-values.yaml"), "ConfigMap")
    dashboard = json.loads(config["data"]["tagfit.json"])
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"tagfit_\w+", query)}
    with served(create_server_app(Settings())) as url:
        text = httpx.get(f"{url}/metrics", trust_env=False).text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    series = {name + "_bucket" * (kind == "histogram") for name, kind in types.items()}

    assert asked
    assert asked <= series
