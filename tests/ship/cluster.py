"""A real Kubernetes API server over a real etcd: it validates and admits, and runs nothing."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.real.processes import Server, free_port, wait_until
from tests.real.programs import unavailable
from tests.ship.go_modules import build_in_module, go

KUBERNETES_VERSION = "1.37.2"
"""As ``go/kubernetes/go.mod`` has it."""
CUSTOM_RESOURCES = {
    "ServiceMonitor": (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "HTTPRoute": (
        "sigs.k8s.io/gateway-api@v1.6.0",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
}
"""Where the definition of each is, in the repository of its makers."""
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kubelet": "./kubelet",  # the port forwarding of one: see there
}
TOKEN = "of-the-only-user"
START_SECONDS = 60.0


class Cluster:
    """The API server; only what is asked of it exists, since no controller runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        etcd_url = f"http://127.0.0.1:{free_port()}"
        self._etcd = Server(
            [
                program("etcd"), f"--data-dir={folder}/etcd", "--unsafe-no-fsync",
                f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}",
                "--listen-peer-urls=http://127.0.0.1:0",
            ],
            {},
            f"{etcd_url}/health",
            folder / "etcd.log",
        )  # fmt: skip
        self.url = f"https://127.0.0.1:{free_port()}"
        self._certificates = folder / "certificates"
        self._command: list[str | Path] = [
            program("apiserver"), f"--etcd-servers={etcd_url}", "--bind-address=127.0.0.1",
            f"--secure-port={httpx.URL(self.url).port}", f"--cert-dir={self._certificates}",
            f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://cluster",
            f"--service-account-signing-key-file={folder}/key.pem",
            f"--service-account-key-file={folder}/key.pem",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client()
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> None:
        """Start both; returns when the API server is ready."""
        key = self._folder / "key.pem"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self._folder / "tokens.csv").write_text(f"{TOKEN},administrator,1,system:masters\n")
        self._etcd.start()
        with (self._folder / "apiserver.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(
            (self._certificates / "apiserver.crt").exists, "it has a certificate", START_SECONDS
        )
        self._client.close()
        self._client = self._connect()
        wait_until(self._ready, "the API server is ready", START_SECONDS)
        self.kubeconfig.write_text(json.dumps(self.access("default")))

    def stop(self) -> None:
        """End both."""
        self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._etcd.stop()

    def create(self, path: str, thing: dict[str, Any], **parameters: str) -> httpx.Response:
        """POST an object, unknown fields refused; the caller judges the status."""
        parameters = {"fieldValidation": "Strict"} | parameters
        return self._client.post(path, json=thing, params=parameters)

    def patch(self, path: str, change: dict[str, Any]) -> None:
        """Merge a change into an object; one that is not there is no error."""
        merge = {"content-type": "application/merge-patch+json"}
        answer = self._client.patch(path, json=change, headers=merge)
        assert answer.is_success or answer.status_code == 404, answer.text

    def delete(self, path: str) -> None:
        """Remove an object, now; one that is not there is no error."""
        answer = self._client.delete(path, params={"gracePeriodSeconds": 0})
        assert answer.is_success or answer.status_code == 404, answer.text

    def get(self, path: str) -> dict[str, Any]:
        """An object or a list."""
        found: dict[str, Any] = self._client.get(path).raise_for_status().json()
        return found

    def workloads(self, namespace: str) -> list[dict[str, Any]]:
        """What makes pods in a namespace."""
        found = []
        for kind in ("Deployment", "DaemonSet"):
            listed = self.get(f"/apis/apps/v1/namespaces/{namespace}/{kind.lower()}s")
            named = {"apiVersion": "apps/v1", "kind": kind}  # left out in lists
            found += [named | thing for thing in listed["items"]]
        return found

    def define(self, kind: str) -> None:
        """Teach the server one of CUSTOM_RESOURCES."""
        module, path = CUSTOM_RESOURCES[kind]
        definition = yaml.safe_load((_downloaded(module) / path).read_text())
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        self.create(definitions, definition, fieldValidation="Warn").raise_for_status()
        group = f"/apis/{definition['spec']['group']}/v1"
        wait_until(
            lambda: f'"{kind}"' in self._client.get(group).text, f"it knows {kind}", START_SECONDS
        )

    def _ready(self) -> bool:
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _connect(self) -> httpx.Client:
        authority = self._certificates / "apiserver.crt"
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {TOKEN}"},
            verify=ssl.create_default_context(cafile=authority),
            trust_env=False,
            timeout=30,
        )

    def access(self, namespace: str) -> dict[str, Any]:
        """A kubeconfig whose commands mean this namespace where they name none."""
        authority = str(self._certificates / "apiserver.crt")
        cluster = {"server": self.url, "certificate-authority": authority}
        context = {"cluster": "test", "user": "test", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }


def _downloaded(module: str) -> Path:
    """The folder of a Go module's files."""
    command = [go(), "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        unavailable(f"{module} cannot be had: {done.stdout[-2000:]}")
    return Path(json.loads(done.stdout)["Dir"])


def program(name: str) -> Path:
    """One of PROGRAMS; the API server takes minutes to build, once."""
    version = f"v{KUBERNETES_VERSION}"
    say = {"k8s.io/component-base/version.gitVersion": version}
    return build_in_module("kubernetes", PROGRAMS[name], version, name, say)
