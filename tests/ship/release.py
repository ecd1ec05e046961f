"""What a release is made of, built into ``dist/``: ``make release``.

Every builder writes into one folder and returns the files that it made there. All times in them are
that of the last commit, so that two builds of one commit give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.real.programs import unavailable
from tests.ship.engine import base_image, docker
from tests.ship.programs import CHART, HELM_VERSIONS, ROOT, helm

DIST = ROOT / "dist"
DOCKERFILE = ROOT / "Dockerfile"
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CLIENT = ROOT / "openapi" / "typescript"
TIMEOUT_SECONDS = 600


def wheel_and_sdist(dist: Path, root: Path = ROOT) -> list[Path]:
    """For pip, pipx and uv."""
    options = ["--quiet", "--wheel", "--sdist", "--no-create-gitignore", f"--out-dir={dist}"]
    _run([uv(), "build", *options, root])
    return [dist / f"tagfit-{VERSION}-py3-none-any.whl", dist / f"tagfit-{VERSION}.tar.gz"]


def requirements(dist: Path) -> list[Path]:
    """The versions and hashes that were tested, for the same tools."""
    return [
        _copy(ROOT / "service" / "requirements.txt", dist / f"tagfit-{VERSION}-requirements.txt")
    ]


def chart(dist: Path, source: Path = CHART) -> list[Path]:
    """The Helm chart. Helm writes the present time into the archive: it is packed again without."""
    with tempfile.TemporaryDirectory() as folder:
        helm(HELM_VERSIONS[-1], "package", source, "--destination", folder).check_returncode()
        (package,) = Path(folder).iterdir()
        packed = dist / f"tagfit-chart-{package.name.removeprefix('tagfit-')}"
        packed.write_bytes(at_one_time(package.read_bytes(), last_commit_seconds()))
    return [packed]


def at_one_time(package: bytes, seconds: int) -> bytes:
    """A gzipped tar archive in order of names, all of one time and of nobody."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as old,
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=seconds, filename="") as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = seconds, 0, 0, "", ""
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member))
    return packed.getvalue()


def openapi_document(dist: Path) -> list[Path]:
    """The committed document, which the tests hold against the program's own."""
    return [_copy(ROOT / "openapi" / "openapi.json", dist / f"tagfit-{VERSION}-openapi.json")]


def typescript_client(dist: Path) -> list[Path]:
    """An npm package: types made from the OpenAPI document, and a client that knows them."""
    npm = shutil.which("npm")
    if npm is None:
        unavailable("the TypeScript client cannot be built: there is no npm")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(CLIENT, package := Path(folder) / "typescript")
        shutil.copy(ROOT / "openapi" / "openapi.json", folder)
        description = json.loads((package / "package.json").read_text()) | {"version": VERSION}
        (package / "package.json").write_text(json.dumps(description, indent=2) + "\n")
        for command in (["ci", "--no-audit", "--no-fund"], ["pack", f"--pack-destination={dist}"]):
            _run([npm, *command, "--silent"], package)
    return [dist / f"tagfit-client-{VERSION}.tgz"]


def bill_of_materials(dist: Path) -> list[Path]:
    """CycloneDX, from an environment that holds exactly the locked requirements."""
    bill = dist / f"tagfit-{VERSION}-sbom.cdx.json"
    (version,) = re.findall(r"^ARG CYCLONEDX_VERSION=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        _run([uv(), "venv", "--quiet", "--python", sys.executable, folder])
        locked = ["--require-hashes", f"--requirement={ROOT}/service/requirements.txt"]
        _run([uv(), "pip", "install", "--quiet", f"--python={python}", *locked])
        tool = ["tool", "run", "--quiet", "--from", f"cyclonedx-bom=={version}"]
        options = ["--output-reproducible", "--output-format=JSON", f"--output-file={bill}"]
        described = ["environment", f"--pyproject={ROOT}/pyproject.toml", *options, str(python)]
        _run([uv(), *tool, "cyclonedx-py", *described])
    return [bill]


def image(dist: Path) -> list[Path]:
    """The image, for ``docker load``."""
    archive = dist / f"tagfit-{VERSION}-image.tar.gz"
    name = f"tagfit:{VERSION}"
    with docker() as engine:
        arguments = {
            "BASE": base_image(engine),
            "REVISION": _git("rev-parse", "HEAD"),
            "SOURCE_DATE_EPOCH": str(last_commit_seconds()),
        }
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        engine("build", "--network=host", *options, f"--tag={name}", ROOT)
        engine("save", "--output", saved := archive.with_suffix(""), name)
    with (
        saved.open("rb") as plain,
        archive.open("wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as packed,
    ):
        shutil.copyfileobj(plain, packed)
    saved.unlink()
    return [archive]


def checksums(dist: Path) -> Path:
    """SHA256SUMS of everything in the folder, for ``sha256sum --check``."""
    sums = dist / "SHA256SUMS"
    sums.unlink(missing_ok=True)
    lines = []
    for path in sorted(dist.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    sums.write_text("".join(lines))
    return sums


BUILDERS = (
    wheel_and_sdist, requirements, chart, openapi_document, typescript_client, bill_of_materials,
    image,
)  # fmt: skip


def main() -> None:
    """Build all that can be built here, and say what cannot."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for builder in BUILDERS:
        try:
            for path in builder(DIST):
                sys.stdout.write(f"{path.stat().st_size:>12,}  {path.relative_to(ROOT)}\n")
        except pytest.skip.Exception as missing:
            sys.stdout.write(f"     without  {builder.__name__}: {missing}\n")
    sys.stdout.write(f"{checksums(DIST).relative_to(ROOT)}\n")


@cache
def last_commit_seconds() -> int:
    """The time of the last commit, unless SOURCE_DATE_EPOCH says another."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))


def uv() -> Path:
    """The installer that the Makefile uses."""
    own = ROOT / ".uv" / "bin" / "uv"
    found = shutil.which("uv")
    if found is None and not own.exists():
        unavailable("there is no uv: make .uv/bin/uv")
    return Path(found) if found else own


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copy(source, target))


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()


def _run(command: Sequence[str | Path], folder: Path = ROOT) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(last_commit_seconds())},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


if __name__ == "__main__":
    main()
