"""The machine that the service runs on, as Ollama will find it.

Every probe runs off the event loop with a time limit of its own; its failure is a field of the
answer. What was found is kept for some seconds.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from tagfit.hardware import amd, apple, bandwidth, intel, nvidia
from tagfit.hardware.cgroup import Limits, read_limits
from tagfit.hardware.cpu import Cpu, read_cpu
from tagfit.hardware.daemon import DaemonReport
from tagfit.hardware.describe import describe
from tagfit.hardware.disk import Disk, read_disk
from tagfit.hardware.gpu import GpuReport, ProbeStatus
from tagfit.hardware.host import Memory, read_memory
from tagfit.hardware.probed import Probed, assemble, limited
from tagfit.hardware.watched import Watched

__all__ = ["Probed", "Prober", "describe"]

T = TypeVar("T")

KEEP_SECONDS = 60.0
"""So long the last answer of a probe stands in for one that is late."""


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """What one probe gave, or None, and how it went."""

    value: T | None
    status: ProbeStatus


class Prober:
    """Probes one machine; an instance serves one process."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        root: Path = Path("/"),
        timeout_seconds: float = 0.8,
        cache_seconds: float = 5.0,
        ollama_memory_limit: int | None = None,
        models_directory: str | None = None,
        measure_bandwidth: bool = True,
        ask_daemon: Callable[[], DaemonReport] | None = None,
    ) -> None:
        """Keep the settings; nothing is probed yet.

        The environment is the one that the drivers and Ollama see. Below root lie /proc, /sys and
        the rest. A memory limit that is given, in bytes, is that of Ollama's own container beside
        this one: then this process's control groups say nothing of Ollama. What asks the daemon
        may block.
        """
        self._environment = dict(environment)
        self._timeout_seconds = timeout_seconds
        self._cache_seconds = cache_seconds
        self._ollama_memory_limit_bytes = ollama_memory_limit
        self._measures = measure_bandwidth and root == Path("/")
        self._bandwidth: Watched[int] | None = None
        self._measured: Answer[int] = Answer(None, ProbeStatus("timeout"))
        self._gpus: dict[str, Watched[GpuReport]] = {
            "nvidia": Watched(partial(nvidia.probe, self._environment, root)),
            "amd": Watched(partial(amd.probe, root, self._environment)),
            "intel": Watched(partial(intel.probe, root)),
            "apple": Watched(partial(_probe_apple, timeout_seconds)),
        }
        self._memory = Watched(partial(read_memory, root))
        self._cpu = Watched(partial(_read_cpu, root, timeout_seconds))
        self._limits = Watched(partial(read_limits, root))
        self._disk = Watched(partial(read_disk, root, models_directory, self._environment))
        self._daemon = Watched(ask_daemon or _no_daemon)
        self._task: asyncio.Task[Probed] | None = None
        self._probed: Probed | None = None
        self._probed_at = -math.inf

    async def probe(self, *, refresh: bool = False) -> Probed:
        """The machine, probed some seconds ago at most; never raises.

        With refresh it is probed now, and what was too late is asked again. Calls at the same time
        share one probe.
        """
        fresh = time.monotonic() - self._probed_at < self._cache_seconds
        if self._probed is not None and fresh and not refresh:
            return self._probed
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._probe(retry=refresh))
        return await asyncio.shield(self._task)

    async def _probe(self, *, retry: bool) -> Probed:
        reports, host, disk, daemon = await asyncio.gather(
            self._ask_gpus(retry),
            self._ask_host(retry),
            self._ask(self._disk, retry),
            self._ask(self._daemon, retry),
        )
        memory, cpu, limits, speed = host
        probed = assemble(
            reports={name: answer.value for name, answer in reports.items()},
            memory=memory.value,
            cpu=cpu.value or Cpu(),
            limits=self._limits_of_ollama(limits.value or Limits()),
            disk=disk.value or Disk(),
            daemon=daemon.value.daemon if daemon.value else None,
            bandwidth_bytes_per_second=speed.value,
            environment=self._environment,
        )
        statuses = {
            **{name: _own_status(answer) for name, answer in reports.items()},
            "ollama": _own_status(daemon),
            "memory": memory.status,
            "cpu": cpu.status,
            "cgroup": limits.status,
            "bandwidth": speed.status,
            "disk": disk.status,
        }
        self._probed = replace(probed, probe=statuses)
        self._probed_at = time.monotonic()
        return self._probed

    async def _ask_gpus(self, retry: bool) -> dict[str, Answer[GpuReport]]:
        answers = await asyncio.gather(
            *(self._ask(watched, retry) for watched in self._gpus.values())
        )
        return dict(zip(self._gpus, answers, strict=True))

    async def _ask_host(
        self, retry: bool
    ) -> tuple[Answer[Memory], Answer[Cpu], Answer[Limits], Answer[int]]:
        memory, cpu, limits = await asyncio.gather(
            self._ask(self._memory, retry),
            self._ask(self._cpu, retry),
            self._ask(self._limits, retry),
        )
        return memory, cpu, limits, await self._ask_bandwidth(memory, cpu, limits)

    async def _ask_bandwidth(
        self, memory: Answer[Memory], cpu: Answer[Cpu], limits: Answer[Limits]
    ) -> Answer[int]:
        if not self._measures:
            return Answer(None, ProbeStatus("disabled", "measuring is turned off"))
        if self._bandwidth is None:
            cores = cpu.value.performance_cores if cpu.value else 0
            reason = _why_not_measure(memory.value, limits.value, cores)
            if reason:
                return Answer(None, ProbeStatus("unavailable", reason))
            self._bandwidth = Watched(partial(bandwidth.measure, cores))
            self._measured = await self._ask(self._bandwidth, retry=False)
        late = self._bandwidth.last(math.inf)
        return self._measured if late is None else Answer(late, ProbeStatus("ok"))

    def _limits_of_ollama(self, own: Limits) -> Limits:
        given = self._ollama_memory_limit_bytes
        if given is None:
            return own
        # How much of it Ollama's container uses is not to be seen from here.
        return Limits(memory_bytes=given, free_memory_bytes=given, source="ollama_memory_limit")

    async def _ask(self, watched: Watched[T], retry: bool) -> Answer[T]:
        try:
            return Answer(
                await watched.result(self._timeout_seconds, retry=retry), ProbeStatus("ok")
            )
        except TimeoutError:
            late = watched.last(KEEP_SECONDS)
            detail = f"no answer within {self._timeout_seconds:g} s"
            kept = "; its last one is used" if late is not None else ""
            return Answer(late, ProbeStatus("timeout", detail + kept))
        except Exception as error:  # noqa: BLE001 - a probe's failure is part of the answer
            return Answer(None, ProbeStatus("error", f"{type(error).__name__}: {error}"))


def _own_status(answer: Answer[GpuReport] | Answer[DaemonReport]) -> ProbeStatus:
    """What the probe itself says of how it went, where it answered in time."""
    if answer.value is None or answer.status.status != "ok":
        return answer.status
    return answer.value.status


def _no_daemon() -> DaemonReport:
    return DaemonReport(ProbeStatus("disabled", "no daemon is asked"))


def _why_not_measure(memory: Memory | None, limits: Limits | None, cores: int) -> str | None:
    """Why measuring the bandwidth would do harm or give nonsense."""
    if memory is None or limits is None or not cores:
        return "memory, its limits or the cores are not known"
    if limits.cpus is not None and limits.cpus < cores:
        return f"{limits.cpus:g} CPUs of {cores} cores are too few to measure it"
    if limited(memory, limits)[1] < bandwidth.LEAST_FREE_BYTES:
        return "too little free memory to measure it"
    return None


def _read_cpu(root: Path, timeout_seconds: float) -> Cpu:
    if sys.platform == "darwin":
        return apple.cpu(apple.read_sysctl(timeout_seconds))
    return read_cpu(root)


def _probe_apple(timeout_seconds: float) -> GpuReport:
    if sys.platform != "darwin":
        return GpuReport(status=ProbeStatus("unavailable", "not macOS"))
    return apple.report(apple.read_sysctl(timeout_seconds))
