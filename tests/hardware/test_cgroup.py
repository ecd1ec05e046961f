"""Limits of control groups: versions 1 and 2, over all ancestors, and in a real group."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.hardware.cgroup import Limits, read_limits
from tests.real.programs import unavailable

GIB = 2**30
MIB = 2**20
NO_LIMIT_V1 = "9223372036854771712\n"

Tree = Callable[[Mapping[str, str]], Path]


def below(folder: str, files: Mapping[str, object]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}{name}": f"{text}\n" for name, text in files.items()}


def test_a_v2_container_sees_its_own_group_at_the_mount(tree: Tree) -> None:
    """Docker with a cgroup namespace: the path is / and the files are the container's."""
    root = tree(
        {"proc/self/cgroup": "0::/\n"}
        | below("", {"memory.max": 8 * GIB, "memory.high": "max", "memory.current": 3 * GIB})
        | below("", {"cpu.max": "150000 100000"})
    )

    assert read_limits(root) == Limits(
        memory_bytes=8 * GIB,
        free_memory_bytes=5 * GIB,
        cpus=1.5,
        source="/sys/fs/cgroup/memory.max",
    )


def test_a_v2_limit_of_an_ancestor_holds(tree: Tree) -> None:
    """systemd: the slice is limited, the service in it is not."""
    root = tree(
        {"proc/self/cgroup": "0::/user.slice/app.service\n"}
        | below("user.slice/", {"memory.max": 6 * GIB, "memory.current": 4 * GIB})
        | below("user.slice/", {"cpu.max": "400000 100000"})
        | below("user.slice/app.service/", {"memory.max": "max", "memory.current": GIB})
        | below("user.slice/app.service/", {"cpu.max": "max 100000"})
    )

    limits = read_limits(root)

    assert (limits.memory_bytes, limits.free_memory_bytes) == (6 * GIB, 2 * GIB)
    assert limits.cpus == 4
    assert limits.source == "/sys/fs/cgroup/user.slice/memory.max"


def test_what_is_free_is_the_least_of_all_levels(tree: Tree) -> None:
    """Limit and usage of the same level; a wider level may have less left."""
    root = tree(
        {"proc/self/cgroup": "0::/a/b\n"}
        | below("a/", {"memory.max": 10 * GIB, "memory.current": 9 * GIB})
        | below("a/b/", {"memory.max": 4 * GIB, "memory.current": GIB})
    )

    limits = read_limits(root)

    assert (limits.memory_bytes, limits.free_memory_bytes) == (4 * GIB, GIB)


def test_memory_high_is_a_limit_too(tree: Tree) -> None:
    """Beyond memory.high a group is slowed down until it is of no use."""
    root = tree(
        {"proc/self/cgroup": "0::/\n"}
        | below("", {"memory.max": 8 * GIB, "memory.high": 6 * GIB, "memory.current": 0})
    )

    assert read_limits(root).memory_bytes == 6 * GIB


def test_more_used_than_allowed_leaves_nothing(tree: Tree) -> None:
    root = tree(
        {"proc/self/cgroup": "0::/\n"} | below("", {"memory.max": GIB, "memory.current": 2 * GIB})
    )

    assert read_limits(root).free_memory_bytes == 0


V1_OWN = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"


def test_a_v1_container_without_a_namespace_sees_its_group_at_the_mount(tree: Tree) -> None:
    """The path is the host's and is not there."""
    root = tree(
        {"proc/self/cgroup": V1_OWN}
        | below("memory/", {"memory.limit_in_bytes": 2 * GIB, "memory.usage_in_bytes": GIB})
        | below("cpu,cpuacct/", {"cpu.cfs_quota_us": 50000, "cpu.cfs_period_us": 100000})
    )

    limits = read_limits(root)

    assert (limits.memory_bytes, limits.free_memory_bytes, limits.cpus) == (2 * GIB, GIB, 0.5)


def test_v1_writes_no_limit_as_a_large_number(tree: Tree) -> None:
    root = tree(
        {"proc/self/cgroup": V1_OWN}
        | below("memory/", {"memory.limit_in_bytes": NO_LIMIT_V1, "memory.usage_in_bytes": GIB})
        | below("memory/docker/abc/", {"memory.limit_in_bytes": NO_LIMIT_V1})
        | below("cpu/", {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000})
    )

    assert read_limits(root) == Limits()


def test_v1_ancestors_that_are_not_mounted_show_in_memory_stat(tree: Tree) -> None:
    root = tree(
        {"proc/self/cgroup": V1_OWN}
        | below("memory/", {"memory.limit_in_bytes": NO_LIMIT_V1, "memory.usage_in_bytes": GIB})
        | below("memory/", {"memory.stat": f"cache 1\nhierarchical_memory_limit {3 * GIB}"})
    )

    limits = read_limits(root)

    assert (limits.memory_bytes, limits.free_memory_bytes) == (3 * GIB, 2 * GIB)


def test_hybrid_hierarchies_are_read_both(tree: Tree) -> None:
    root = tree(
        {"proc/self/cgroup": "4:memory:/app\n0::/app\n"}
        | below("memory/app/", {"memory.limit_in_bytes": 4 * GIB, "memory.usage_in_bytes": 0})
        | below("unified/app/", {"memory.max": 2 * GIB, "memory.current": 0})
    )

    assert read_limits(root).memory_bytes == 2 * GIB


@pytest.mark.parametrize("own", ["", "0::/../../elsewhere\n", "nonsense\n", "0::/not/there\n"])
def test_without_a_readable_path_the_mount_itself_is_read(tree: Tree, own: str) -> None:
    root = tree(
        {"proc/self/cgroup": own} | below("", {"memory.max": GIB, "memory.current": "nonsense"})
    )

    assert read_limits(root).memory_bytes == GIB


def test_no_control_groups_are_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits()


@given(own=st.text(), limit=st.text(), used=st.text(), quota=st.text())
def test_nonsense_is_no_limit_and_no_error(own: str, limit: str, used: str, quota: str) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in {
            "proc/self/cgroup": own,
            "sys/fs/cgroup/memory.max": limit,
            "sys/fs/cgroup/memory.current": used,
            "sys/fs/cgroup/cpu.max": quota,
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8", errors="surrogatepass")

        limits = read_limits(root)

    assert limits.memory_bytes is None or limits.memory_bytes >= 0
    assert limits.cpus is None or limits.cpus > 0


def own_group(controller: str) -> str:
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return next((path for _, names, path in rows if controller in names.split(",")), "/")


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group with a memory limit of 700 MiB, made on this machine."""
    places = [
        (Path("/sys/fs/cgroup/memory" + own_group("memory")), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup" + own_group("")), "memory.max"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ]
    refusals = []
    for parent, limit in places:
        group = parent / f"tagfit-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            refusals.append(f"{error}")
            continue
        try:
            (group / limit).write_text(str(700 * MIB))
            yield group
        except OSError as error:
            refusals.append(f"{error}")
        else:
            return
        finally:
            group.rmdir()
    unavailable(f"no control group can be made here: {'; '.join(refusals)}")


def test_the_limit_of_a_real_group_is_the_machines_memory(real_group: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, pathlib, sys, msgspec
        from tagfit.hardware.probe import Prober
        probed = asyncio.run(Prober(environment={}, measure_bandwidth=False).probe())
        sys.stdout.buffer.write(msgspec.json.encode(probed))
        """
    )
    joined = f"echo $$ > {real_group}/cgroup.procs && exec {sys.executable} -c '{program}'"

    done = subprocess.run(["/bin/sh", "-c", joined], capture_output=True, check=True)

    probed = msgspec.json.decode(done.stdout)
    assert probed["hardware"]["memory_bytes"] == 700 * MIB
    assert 600 * MIB < probed["hardware"]["free_memory_bytes"] < 700 * MIB
    assert str(real_group) in probed["limits"]["source"]
