"""What ``make release`` left in ``dist/``: it is whole, and each part does what it is for."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tagfit.app import create_server_app
from tagfit.settings import Settings
from tests.real.programs import unavailable
from tests.real.serving import served
from tests.ship.documents import command_lines
from tests.ship.programs import HELM_VERSIONS, ROOT, render
from tests.ship.release import CLIENT, DIST, VERSION, uv

PAGE = ROOT / "docs" / "install.md"
UNUSED_PARAMETER = """
// @ts-expect-error: what the document does not know is refused
await tagfit().GET("/recommend", { params: { query: { memory_of_an_elephant: "12GiB" } } });
"""


def released(name: str) -> Path:
    path = DIST / name
    if not path.exists():
        unavailable(f"dist/{name} is not there: make release")
    return path


def test_the_checksums_are_right_and_of_everything() -> None:
    listed = released("SHA256SUMS").read_text().splitlines()
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=DIST, check=False
    )

    assert checked.returncode == 0
    assert {line.split()[1] for line in listed} == {path.name for path in DIST.iterdir()} - {
        "SHA256SUMS"
    }


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_the_chart_package_renders(version: str) -> None:
    assert render(version, released(f"tagfit-chart-{VERSION}.tgz"))


def test_the_bill_lists_what_is_locked() -> None:
    bill = json.loads(released(f"tagfit-{VERSION}-sbom.cdx.json").read_text())
    text = released(f"tagfit-{VERSION}-requirements.txt").read_text()
    lines = re.findall(r"^(\S+==.*?) *\\?$", text, re.MULTILINE)
    locked = [Requirement(line) for line in lines]
    components = {
        (component["name"].lower().replace("_", "-"), component["version"])
        for component in bill["components"]
    }

    assert bill["metadata"]["component"]["version"] == VERSION
    assert components == {
        (requirement.name.lower(), str(requirement.specifier).removeprefix("=="))
        for requirement in locked
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_pipx_installs_the_wheel(tmp_path: Path) -> None:
    """With what the index has today, and not with what is locked."""
    released(f"tagfit-{VERSION}-py3-none-any.whl")
    (line,) = command_lines(PAGE, "pipx")
    places = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    subprocess.run(
        [uv(), "tool", "run", "--quiet", *shlex.split(line)],
        cwd=ROOT, env={**os.environ, **places}, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    said = subprocess.check_output([tmp_path / "bin" / "tagfit", "--version"], text=True)

    assert said == f"tagfit {VERSION}\n"


def test_the_typescript_client_compiles_strictly_and_asks_a_real_server(tmp_path: Path) -> None:
    """The page's example; what the document does not have is an error of types."""
    client = released(f"tagfit-client-{VERSION}.tgz")
    npm = shutil.which("npm")
    if npm is None:
        unavailable("there is no npm")
    (example,) = re.findall(r"```ts\n(.*?)```", PAGE.read_text(), re.DOTALL)
    locked = json.loads((CLIENT / "package-lock.json").read_text())["packages"]
    compiler = f"typescript@{locked['node_modules/typescript']['version']}"

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    (tmp_path / "package.json").write_text('{"type": "module"}')
    run(npm, "install", "--no-audit", "--no-fund", "--silent", client, compiler)
    with served(create_server_app(Settings())) as url:
        here = example.replace("tagfit()", f'tagfit({{ baseUrl: "{url}" }})')
        (tmp_path / "ask.ts").write_text(here)
        (tmp_path / "wrong.ts").write_text(
            f'import {{ tagfit }} from "tagfit-client";{UNUSED_PARAMETER}'
        )
        options = ["--strict", "--module", "nodenext", "--target", "es2022"]
        run(tmp_path / "node_modules" / ".bin" / "tsc", *options, "ask.ts", "wrong.ts")
        answer = run("node", "ask.js")

    assert ":" in answer, answer


def test_the_image_has_the_version_and_how_to_see_whether_it_is_well() -> None:
    with (
        gzip.open(released(f"tagfit-{VERSION}-image.tar.gz")) as plain,
        tarfile.open(fileobj=plain) as archive,
    ):
        (image,) = read_json(archive, "manifest.json")
        config = read_json(archive, image["Config"])["config"]

    assert image["RepoTags"] == [f"tagfit:{VERSION}"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["Healthcheck"]["Test"] == ["CMD", "tagfit", "healthcheck"]


def read_json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file, name
    return json.load(file)
