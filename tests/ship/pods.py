"""Pods in rendered objects, and what the restricted Pod Security Standard says of them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tagfit.settings import Settings, read_settings

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
MEMORY_BYTES = 16 * 2**30
"""What the Downward API says wherever it is asked for a memory limit."""


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The specification of every pod that the objects are or make."""
    for thing in objects:
        if thing["kind"] == "Pod":
            yield thing["spec"]
        elif "template" in thing.get("spec", {}):
            yield thing["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers, sidecars first."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def tagfit_container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The one container that serves."""
    (found,) = [
        container
        for pod in pod_specs(objects)
        for container in containers(pod)
        if container["name"] == "tagfit"
    ]
    return found


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that a node would set."""
    environment = {"NODE_IP": "192.0.2.7"}
    for variable in container["env"]:
        value = variable.get("value") or str(MEMORY_BYTES)
        for name, known in environment.items():
            value = value.replace(f"$({name})", known)
        environment.setdefault(variable["name"], value)
    return environment


def settings_of(container: dict[str, Any]) -> Settings:
    """What the program reads from a container's environment: it raises for what it refuses."""
    return read_settings(environment_of(container))


def violations(pod: dict[str, Any]) -> list[str]:
    """Rules of the restricted standard that a pod breaks."""
    found = [f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - RESTRICTED_VOLUMES]
    for container in containers(pod):
        security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        rules = {
            "runs as non-root": security.get("runAsNonRoot") is True,
            "has a numeric user": security.get("runAsUser", 0) > 0,
            "no privilege escalation": security.get("allowPrivilegeEscalation") is False,
            "not privileged": not security.get("privileged"),
            "drops all capabilities": security.get("capabilities") == {"drop": ["ALL"]},
            "default seccomp": security.get("seccompProfile") == {"type": "RuntimeDefault"},
            "no host port": not any("hostPort" in port for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {rule}" for rule, kept in rules.items() if not kept]
    return found
