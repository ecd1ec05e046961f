"""What makes and runs pods: the little of controllers, scheduler and kubelet that documents need.

A workload's pods are created from its template. In place of tagfit's container there is the program
of this checkout with the container's environment, once it is asked for something. Pods that end by
themselves, as Helm's tests, are run to their end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.real.processes import Server, free_port
from tests.ship.cluster import Cluster, program
from tests.ship.pods import environment_of, settings_of, tagfit_container

PROGRAM = Path(sys.executable).with_name("tagfit")


class Node:
    """The only node of a namespace; it works while ``work`` is called."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.name = f"node-of-{namespace}"
        self._cluster = cluster
        self._namespace = namespace
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        self._kubelet_port = free_port()
        self._kubelet = Server(
            [program("kubelet"), f"127.0.0.1:{self._kubelet_port}", self._address],
            {},
            f"http://127.0.0.1:{self._kubelet_port}",
            folder / "kubelet.log",
        )
        self._container: dict[str, Any] = {}
        self._served: Server | None = None

    def start(self) -> None:
        """Be a node that the API server reaches."""
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._kubelet_port}},
        }
        node = {"metadata": {"name": self.name}, "status": status}
        self._cluster.create("/api/v1/nodes", node).raise_for_status()
        self._kubelet.start()

    def stop(self) -> None:
        """End what runs."""
        self._kubelet.stop()
        self._end()

    def work(self) -> None:
        """Do all that is to be done now."""
        workloads = self._cluster.workloads(self._namespace)
        wanted = {
            f"{thing['metadata']['name']}-{thing['metadata']['generation']}-{number}": thing
            for thing in workloads
            for number in range(thing["spec"].get("replicas", 1))
        }
        for name in wanted.keys() - self._collect(wanted):
            self._create(name, wanted[name])
        for pod in self._pods():
            if pod["status"]["phase"] == "Pending":
                self._run(pod)
        for thing in workloads:
            self._report(thing)

    def _collect(self, wanted: dict[str, dict[str, Any]]) -> set[str]:
        """Remove pods that nobody wants any more; the names of those that a workload has."""
        kept = set()
        owners = {name: thing["metadata"]["uid"] for name, thing in wanted.items()}
        for pod in self._pods():
            metadata = pod["metadata"]
            owner = next((owner["uid"] for owner in metadata.get("ownerReferences", [])), None)
            if "deletionTimestamp" in metadata or owner != owners.get(metadata["name"]):
                self._cluster.delete(f"{self._path('pods')}/{metadata['name']}")
            elif owner:
                kept.add(metadata["name"])
        return kept

    def _create(self, name: str, workload: dict[str, Any]) -> None:
        template = workload["spec"]["template"]
        owner = {
            "apiVersion": workload["apiVersion"],
            "kind": workload["kind"],
            "name": workload["metadata"]["name"],
            "uid": workload["metadata"]["uid"],
        }
        metadata = {**template["metadata"], "name": name, "ownerReferences": [owner]}
        pod = {"metadata": metadata, "spec": template["spec"]}
        created = self._cluster.create(self._path("pods"), pod)
        assert created.status_code == 201, created.text

    def _run(self, pod: dict[str, Any]) -> None:
        path = f"{self._path('pods')}/{pod['metadata']['name']}"
        target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
        binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
        self._cluster.create(f"{path}/binding", binding)
        if pod["spec"]["restartPolicy"] == "Never":
            status: dict[str, Any] = {"phase": self._run_to_its_end(pod)}
        else:
            self._end()
            self._container = tagfit_container([{"kind": "Pod", **pod}])
            settings_of(self._container)
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "conditions": [ready]}
        self._cluster.patch(f"{path}/status", {"status": status})

    def _run_to_its_end(self, pod: dict[str, Any]) -> str:
        """The phase after it; the name and port of any Service are those of what is served."""
        self.serve()
        (container,) = pod["spec"]["containers"]
        services = self._cluster.get(self._path("services"))["items"]
        arguments = [*container["command"], *container["args"]]
        for service in services:
            url = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
            arguments = [argument.replace(url, self._address) for argument in arguments]
        ended = subprocess.run(
            [sys.executable, *arguments[1:]], capture_output=True, timeout=60, check=False
        )
        return "Failed" if ended.returncode else "Succeeded"

    def serve(self) -> None:
        """Start the container that was run last, if it does not serve."""
        if self._served is None:
            host, _, port = self._address.partition(":")
            own = {"PATH": os.environ["PATH"], "TAGFIT_HOST": host, "TAGFIT_PORT": port}
            environment = environment_of(self._container) | own
            log = self._folder / "tagfit.log"
            self._served = Server(
                [PROGRAM, "serve"], environment, f"http://{self._address}/readyz", log
            )
            self._served.start()

    def _end(self) -> None:
        if self._served is not None:
            self._served.stop()
            self._served = None

    def _report(self, workload: dict[str, Any]) -> None:
        """Say that a workload is as it was asked for."""
        if workload["kind"] == "DaemonSet":
            counts = [
                "desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled",
                "numberReady", "numberAvailable",
            ]  # fmt: skip
            status: dict[str, Any] = {"numberMisscheduled": 0}
        else:
            counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            status = {"conditions": [{"type": "Available", "status": "True"}]}
        number = workload["spec"].get("replicas", 1)
        status |= dict.fromkeys(counts, number)
        status["observedGeneration"] = workload["metadata"]["generation"]
        kind = f"{workload['kind'].lower()}s"
        path = f"/apis/apps/v1/namespaces/{self._namespace}/{kind}/{workload['metadata']['name']}"
        self._cluster.patch(f"{path}/status", {"status": status})

    def _pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._cluster.get(self._path("pods"))["items"]
        return found

    def _path(self, kind: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{kind}"
