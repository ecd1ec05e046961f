"""Programs that ``go install`` cannot build, since their modules replace or exclude others.

Each folder of ``go/`` is a module of our own that has the program as a tool or as a package, its
versions locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.real.programs import BUILD_TIMEOUT_SECONDS, CACHE, unavailable

FOLDER = Path(__file__).parent / "go"


def build_in_module(
    module: str, package: str, version: str, name: str, variables: Mapping[str, str]
) -> Path:
    """The program, built once for a version, with string variables of its packages set.

    A package of the module itself (``./name``) is built again when it has changed.
    """
    binary = CACHE / f"{module}-{version}" / name
    changed = [file.stat().st_mtime for file in (FOLDER / module / package).glob("*.go")]
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists() or binary.stat().st_mtime < max(changed, default=0):
            _build(FOLDER / module, package, binary, variables)
    return binary


def go() -> str:
    """The Go command."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        unavailable("there is no Go to build programs with")
    return found


def _build(module: Path, package: str, binary: Path, variables: Mapping[str, str]) -> None:
    flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())]
    built = subprocess.run(
        [go(), "build", "-trimpath", f"-ldflags={' '.join(flags)}", "-o", binary, package],
        cwd=module,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    if built.returncode:
        unavailable(f"{package} does not build here: {built.stderr[-2000:]}")
