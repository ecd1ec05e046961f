"""What is released says one version, is the same bytes twice, and runs where it is installed."""

from __future__ import annotations

import email
import json
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from litestar.testing import TestClient

from tagfit.app import create_app
from tagfit.settings import Settings, read_settings
from tests.real.programs import unavailable
from tests.ship.documents import command_lines
from tests.ship.programs import CHART, EXAMPLES, ROOT
from tests.ship.release import BUILDERS, VERSION, chart, uv, wheel_and_sdist

UNIT = ROOT / "deploy" / "systemd" / "tagfit.service"
AGENT = ROOT / "deploy" / "launchd" / "tagfit.plist"
PAGE = ROOT / "docs" / "install.md"
INSTALLED = "/usr/local/bin/tagfit"
"""Where unit and agent expect the program."""
MOST_EXPOSURE = 20
"""In tenths, as ``systemd-analyze security`` counts."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What wheel, sdist and chart are built from, newly written."""
    folder = tmp_path_factory.mktemp("checkout")
    return copy_of(ROOT, folder / "tagfit")


def copy_of(root: Path, copy: Path) -> Path:
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copyfile(root / part, copy / part)
    ignored = shutil.ignore_patterns("__pycache__")
    for tree in ("service/tagfit", "helm/tagfit"):
        shutil.copytree(root / tree, copy / tree, copy_function=shutil.copyfile, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(checkout, tmp_path_factory.mktemp("dist"))


def build(root: Path, dist: Path) -> dict[str, Path]:
    paths = [*wheel_and_sdist(dist, root), *chart(dist, root / "helm" / "tagfit")]
    return {path.name: path for path in paths}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, as the page says that uv installs it."""
    folder = tmp_path_factory.mktemp("installed")
    (line,) = [
        line for line in command_lines(PAGE, "uv") if line.startswith("uv tool install --constr")
    ]
    places = {path.name: path for path in built.values()}
    places[f"tagfit-{VERSION}-requirements.txt"] = ROOT / "service" / "requirements.txt"
    words = [str(places[Path(w).name]) if "dist/" in w else w for w in shlex.split(line)[1:]]
    subprocess.run(
        [uv(), *words, "--quiet", "--python", sys.executable],
        env={
            **os.environ,
            "UV_TOOL_DIR": str(folder / "tools"),
            "UV_TOOL_BIN_DIR": str(folder / "bin"),
        },
        check=True,
        timeout=120,
    )
    return folder / "bin" / "tagfit"


def test_two_checkouts_give_the_same_bytes(
    checkout: Path, built: dict[str, Path], tmp_path: Path
) -> None:
    again = build(copy_of(checkout, tmp_path / "elsewhere"), tmp_path)

    assert {n: p.read_bytes() for n, p in again.items()} == {
        name: path.read_bytes() for name, path in built.items()
    }


def test_all_say_the_version_of_the_project(built: dict[str, Path], installed: Path) -> None:
    said = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    with zipfile.ZipFile(built[f"tagfit-{VERSION}-py3-none-any.whl"]) as wheel:
        metadata = email.message_from_bytes(wheel.read(f"tagfit-{VERSION}.dist-info/METADATA"))
    with TestClient(create_app(Settings())) as client:
        answered = client.get("/version").json()["version"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    copies = {
        "tagfit --version": said.stdout.strip().removeprefix("tagfit "),
        "GET /version": answered,
        "wheel": metadata["Version"],
        "chart": yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"],
        "image label": set(re.findall(r"^ARG VERSION=(\S+)$", dockerfile, re.MULTILINE)),
        "OpenAPI": json.loads((ROOT / "openapi" / "openapi.json").read_text())["info"]["version"],
        "examples": {
            version
            for example in EXAMPLES.glob("*.yaml")
            for version in re.findall(r"/tagfit:(\S+)", example.read_text())
        },
        "docs/install.md": set(
            re.findall(r"tagfit-(?:client-|chart-)?(\d[\d.]*\d)", PAGE.read_text())
        ),
    }

    assert {
        name: value for name, value in copies.items() if value not in (VERSION, {VERSION})
    } == {}


def test_the_documented_program_runs_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    documented = command_lines(PAGE, "tagfit")

    for line in documented:
        words = shlex.split(line)[1:]
        if words != ["serve"]:
            subprocess.run(
                [installed, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60
            )
    assert [line for line in documented if line.endswith("serve")] == ["tagfit serve"]


def test_every_released_file_is_listed(built: dict[str, Path]) -> None:
    listed = set(re.findall(r"`(tagfit-[\w.-]+\.\w+)`", PAGE.read_text()))

    assert built.keys() <= listed
    assert len(listed) == len(BUILDERS) + 1  # wheel and sdist are of one builder


def systemd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        unavailable("there is no systemd-analyze: apt-get install systemd")
    return subprocess.run(
        [analyze, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_understands_the_unit_and_finds_it_confined(
    installed: Path, tmp_path: Path
) -> None:
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    unit.write_text(text.replace(INSTALLED, str(installed)))
    verified = systemd("verify", unit)
    judged = systemd("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit)

    assert f"ExecStart={INSTALLED} serve\n" in text
    assert (verified.returncode, verified.stderr) == (0, "")
    assert judged.returncode == 0, judged.stdout


def test_the_launch_agent_starts_the_program_with_settings_that_it_accepts() -> None:
    agent = plistlib.loads(AGENT.read_bytes())

    assert agent["ProgramArguments"] == [INSTALLED, "serve"]
    assert agent["RunAtLoad"] is True
    assert agent["ExitTimeOut"] > read_settings(agent["EnvironmentVariables"]).shutdown_timeout


def test_unit_and_agent_give_a_running_pull_its_time() -> None:
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)

    assert int(stop) > Settings().shutdown_timeout
