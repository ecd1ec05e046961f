"""A real Docker engine, and a base image where no registry can be reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.real.processes import START_TIMEOUT_SECONDS, wait_until
from tests.real.programs import unavailable
from tests.ship.go_modules import build_in_module
from tests.ship.programs import ROOT

COMPOSE_VERSION = "v2.40.3"
"""As ``go/compose/go.mod`` has it."""
PUBLIC_BASE = "python:3.13-slim"
DEBIAN = "trixie"
"""The Debian release whose Python is the public base's: 3.13."""
MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE_ARCHIVE = ROOT / ".cache" / "images" / f"{DEBIAN}-python3.tar"


class Docker:
    """The docker command at one engine."""

    def __init__(self, binary: str, host: str | None) -> None:
        self._binary = binary
        self._environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        if host:
            self._environment["DOCKER_HOST"] = host

    def try_(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it; the caller judges the exit status."""
        return self._run([self._binary, *arguments])

    def _run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def __call__(self, *arguments: str | Path) -> str:
        """What it prints; an error where it fails."""
        done = self.try_(*arguments)
        assert done.returncode == 0, f"docker {arguments[0]}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def compose(self, *arguments: str | Path) -> str:
        """What ``docker compose`` prints; an error where it fails."""
        say = {"github.com/docker/compose/v2/internal.Version": COMPOSE_VERSION}
        package = "github.com/docker/compose/v2/cmd"
        binary = build_in_module("compose", package, COMPOSE_VERSION, "docker-compose", say)
        done = self._run([binary, *arguments])
        assert done.returncode == 0, f"compose {arguments[-1]}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container or image."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found


@contextmanager
def docker() -> Iterator[Docker]:
    """The engine that is here, or one of our own until the context ends."""
    # Debian's client knows BuildKit by itself, another one only with a plugin.
    client = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}")
    if client is None:
        unavailable("there is no docker: apt-get install docker.io iptables")
    present = Docker(client, None)
    if present.try_("info").returncode == 0:
        yield present
        return
    server = shutil.which("dockerd")
    if server is None or os.geteuid() != 0:
        unavailable("no Docker engine runs, and none can be started: that takes dockerd and root")
    folder = Path(tempfile.mkdtemp(prefix="tagfit-docker-"))
    own = Docker(client, f"unix://{folder}/socket")
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen(
            [
                server, "--data-root", folder / "data", "--exec-root", folder / "exec",
                "--pidfile", folder / "pid", "--host", f"unix://{folder}/socket",
                "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
                "--default-ulimit=nofile=20000:20000",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        wait_until(
            lambda: own.try_("info").returncode == 0, "dockerd answers", START_TIMEOUT_SECONDS
        )
        yield own
    finally:
        engine.terminate()
        engine.wait()
        # The engine leaves its host network namespace mounted.
        for namespace in (folder / "exec" / "netns").glob("*"):
            subprocess.run(["umount", namespace], check=False)
        shutil.rmtree(folder)


def base_image(docker: Docker) -> str:
    """The public base, or one like it from Debian's packages."""
    if docker.try_("pull", PUBLIC_BASE).returncode == 0:
        return PUBLIC_BASE
    if not BASE_ARCHIVE.exists():
        _archive_debian(BASE_ARCHIVE)
    name = f"{DEBIAN}-python3"
    variables = [f"ENV {name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
    changes = [part for variable in variables for part in ("--change", variable)]
    docker("import", *changes, BASE_ARCHIVE, name)
    return name


def _archive_debian(archive: Path) -> None:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        unavailable(f"{PUBLIC_BASE} cannot be pulled, nor a base made: that takes debootstrap")
    folder = archive.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packages = "--include=python3,python3-venv,ca-certificates"
    _run(["debootstrap", "--variant=minbase", packages, DEBIAN, folder, MIRROR])
    # Whoever stands between this machine and the package index is trusted in the image as well.
    shutil.copy(CERTIFICATES, folder / CERTIFICATES.removeprefix("/"))
    excluded = ["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*"]
    partial = archive.with_suffix(".partial")
    _run(["tar", "--create", "--file", partial, "--directory", folder, *excluded, "."])
    partial.rename(archive)
    shutil.rmtree(folder)


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
