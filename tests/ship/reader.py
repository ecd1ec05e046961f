"""Who follows a document: its lines are typed into a shell as they are written.

Only a local port is another one, since it may be taken.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.real.processes import wait_until
from tests.ship.cluster import Cluster, program
from tests.ship.node import Node
from tests.ship.programs import ROOT, helm_program

LONGEST_SECONDS = 60.0
NEWS = re.compile("(Pushed|Pulled|Digest): ")
"""What Helm 3 writes to stderr when all is well."""


@contextmanager
def reading(cluster: Cluster, namespace: str, helm_version: str, folder: Path) -> Iterator[Reader]:
    """A reader in a namespace, with one of HELM_VERSIONS and a node of their own."""
    node = Node(cluster, namespace, folder)
    reader = Reader(cluster.access(namespace), node, helm_version, folder)
    try:
        node.start()
        yield reader
    finally:
        reader.stop_forwarding()
        node.stop()


class Reader:
    """A shell in a checkout's root."""

    def __init__(
        self, access: Mapping[str, Any], node: Node, helm_version: str, folder: Path
    ) -> None:
        self._folder = folder
        self._node = node
        self._forwarding: subprocess.Popen[bytes] | None = None
        self._forwarded = ""
        tools = folder / "tools"
        tools.mkdir()
        (tools / "helm").symlink_to(helm_program(helm_version))
        (tools / "kubectl").symlink_to(program("kubectl"))
        self._checkout = folder / "checkout"
        self._checkout.mkdir()
        (self._checkout / "helm").symlink_to(ROOT / "helm")
        (folder / "kubeconfig").write_text(json.dumps(access))
        self._environment = {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "KUBECONFIG": str(folder / "kubeconfig"),
            "NO_PROXY": "localhost,127.0.0.1",
        }

    def type(self, line: str) -> str:
        """What it prints; an error where it fails or warns. The cluster has then settled."""
        if " port-forward " in line:
            return self._forward(re.sub(r" (?:\d+:)?(\d+)(?= |$)", r" :\1", line))
        if line.startswith("curl -s "):
            line = line.replace("curl -s ", "curl -s --fail-with-body ")
            line = line.replace("localhost:11435", f"localhost:{self._forwarded}")
        said, warned = self._folder / "stdout", self._folder / "stderr"
        process = self._start(line, said, warned)
        end = time.monotonic() + LONGEST_SECONDS
        try:
            while process.poll() is None and time.monotonic() < end:
                self._node.work()
                time.sleep(0.05)
        finally:
            process.kill()
            status = process.wait()
        self._node.work()
        complaints = [text for text in warned.read_text().splitlines() if not NEWS.match(text)]
        assert (status, complaints) == (0, []), f"{line}\n{said.read_text()}"
        return said.read_text()

    def stop_forwarding(self) -> None:
        """As with Ctrl-C."""
        if self._forwarding:
            self._forwarding.kill()
            self._forwarding.wait()
            self._forwarding = None

    def _forward(self, line: str) -> str:
        self.stop_forwarding()
        self._node.serve()
        said, warned = self._folder / "forwarding", self._folder / "forwarding-errors"
        self._forwarding = self._start(f"exec {line}", said, warned)
        forwarded = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> 11435")
        wait_until(
            lambda: bool(forwarded.search(said.read_text())) or bool(warned.read_text()),
            line,
            LONGEST_SECONDS,
        )
        found = forwarded.search(said.read_text())
        assert found, warned.read_text()
        self._forwarded = found.group(1)
        return said.read_text()

    def _start(self, line: str, said: Path, warned: Path) -> subprocess.Popen[bytes]:
        with said.open("wb") as stdout, warned.open("wb") as stderr:
            return subprocess.Popen(
                ["bash", "-c", line],
                cwd=self._checkout,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
