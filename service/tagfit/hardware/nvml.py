"""The adapter to NVML: asked once, printed as JSON.

A driver can hang, crash or answer nonsense, so ``tagfit.hardware.nvidia`` runs this in a process
of its own (``python -m tagfit.hardware.nvml``); nothing else imports it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from tagfit.hardware.gpu import Gpu, GpuReport, ProbeStatus

MOST_GPUS = 64
MOST_BYTES = 2**46
MOST_BUS_BITS = 2**16
MOST_MEGAHERTZ = 10**5
"""Beyond these (64 GPUs, 64 TiB, 65536 bits, 100 GHz) an answer is nonsense."""
ORPHAN_SECONDS = 10
"""After this long the process ends itself, should nobody be left to end it."""


def read_nvml() -> GpuReport:
    """What NVML says, asked in this process: it may hang or crash."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuReport(status=_init_status(error.value, str(error)))
    try:
        cuda = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2) or _ask(
            pynvml.nvmlSystemGetCudaDriverVersion
        )
        count = min(pynvml.nvmlDeviceGetCount(), MOST_GPUS)
        gpus = [gpu for index in range(count) for gpu in _gpus_at(index)]
        return GpuReport(
            status=_summary(gpus),
            gpus=tuple(gpus),
            driver_version=_text(_ask(pynvml.nvmlSystemGetDriverVersion)),
            cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        )
    except pynvml.NVMLError as error:
        return GpuReport(status=ProbeStatus("error", f"NVML: {error}"))
    finally:
        _ask(pynvml.nvmlShutdown)


def _init_status(code: int, message: str) -> ProbeStatus:
    # 9 driver not loaded, 12 library not found, 28 no GPU: nvml.h, nvmlReturn_t
    sentences = {
        9: "the NVIDIA driver is not loaded",
        12: "no NVIDIA driver library (libnvidia-ml.so.1) is here",
        28: "the NVIDIA driver sees no GPU",
    }
    if code in sentences:
        return ProbeStatus("unavailable", sentences[code])
    return ProbeStatus("error", f"NVML: {message}")


def _summary(gpus: list[Gpu]) -> ProbeStatus:
    if not gpus:
        return ProbeStatus("unavailable", "the NVIDIA driver sees no GPU")
    failed = [f"GPU {gpu.index}: {gpu.excluded}" for gpu in gpus if gpu.excluded]
    if len(failed) == len(gpus):
        return ProbeStatus("error", "; ".join(failed))
    return ProbeStatus("ok", "; ".join(failed) or None)


def _gpus_at(index: int) -> list[Gpu]:
    """The GPU at one index, or its MIG instances."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        unnamed = Gpu(name="NVIDIA GPU", vendor="nvidia", backend="cuda", index=index)
        return [msgspec.structs.replace(unnamed, excluded=str(error))]
    whole = _whole_gpu(index, handle)
    modes = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if modes and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
        return _mig_instances(handle, whole) or [
            msgspec.structs.replace(whole, excluded="in MIG mode without an instance")
        ]
    return [whole]


def _whole_gpu(index: int, handle: Any) -> Gpu:
    pci = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    power = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    bits = _sane(_ask(pynvml.nvmlDeviceGetMemoryBusWidth, handle), MOST_BUS_BITS)
    clock = _ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_MEM)
    megahertz = _sane(clock, MOST_MEGAHERTZ)
    return Gpu(
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
        vendor="nvidia",
        backend="cuda",
        index=index,
        uuid=_text(_ask(pynvml.nvmlDeviceGetUUID, handle)),
        pci_bus_id=_bus_id(pci.busId) if pci else None,
        pci_id=_pci_id(pci.pciDeviceId) if pci else None,
        compute_capability="{}.{}".format(*capability) if capability else None,
        power_limit_watts=power / 1000 if power else None,
        memory_bus_bits=bits,
        memory_clock_hertz=megahertz * 10**6 if megahertz else None,
        bandwidth_bytes_per_second=_bandwidth(megahertz, bits),
        **_memory(handle),
    )


def _memory(handle: Any) -> dict[str, Any]:
    """Gpu's memory fields, or why it cannot be used."""
    info = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, version=pynvml.nvmlMemory_v2)
    if info is None:
        try:
            info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError_NotSupported:
            # Jetson and GB10: the GPU lives in the host's memory
            return {"integrated": True}
        except pynvml.NVMLError as error:
            # Lost; or a GPU in MIG mode, seen from a container that has one of its instances
            return {"excluded": str(error)}
    if not 0 < info.total <= MOST_BYTES or info.free > info.total or info.used > info.total:
        return {
            "excluded": f"the driver gives an impossible memory ({info.free} of {info.total} free)"
        }
    return {
        "memory_bytes": info.total,
        "free_memory_bytes": info.free,
        "used_memory_bytes": info.used,
        "reserved_memory_bytes": getattr(info, "reserved", None),
    }


def _bandwidth(megahertz: int | None, bits: int | None) -> int | None:
    # NVML gives half of the data rate for GDDR and HBM alike: RTX 3090, 9751 MHz and 384 bits,
    # is 936 GB/s; H100 SXM, 2619 MHz and 5120 bits, is 3352 GB/s (NVIDIA's datasheets).
    return 2 * megahertz * 10**6 * bits // 8 if megahertz and bits else None


def _mig_instances(handle: Any, whole: Gpu) -> list[Gpu]:
    count = min(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0, MOST_GPUS)
    handles = (_ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, i) for i in range(count))
    return [_mig_instance(h, whole) for h in handles if h is not None]


def _mig_instance(handle: Any, whole: Gpu) -> Gpu:
    memory = _memory(handle)
    # Memory comes in eighths, each with its share of the channels; what an instance may use is a
    # little less (https://docs.nvidia.com/datacenter/tesla/mig-user-guide/concepts.html).
    bandwidth, total = whole.bandwidth_bytes_per_second or 0, whole.memory_bytes
    eighths = max(1, round(8 * memory.get("memory_bytes", 0) / total)) if total else 0
    return Gpu(
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle)) or f"{whole.name} MIG",
        vendor="nvidia",
        backend="cuda",
        index=whole.index,
        uuid=_text(_ask(pynvml.nvmlDeviceGetUUID, handle)),
        parent_uuid=whole.uuid or f"GPU-{whole.index}",
        pci_bus_id=whole.pci_bus_id,
        pci_id=whole.pci_id,
        compute_capability=whole.compute_capability,
        bandwidth_bytes_per_second=bandwidth * eighths // 8 or None,
        **memory,
    )


def _ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The answer, or None where this driver or GPU has none."""
    try:
        return call(*arguments, **options)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _sane(value: int | None, most: int) -> int | None:
    return value if value is not None and 0 < value <= most else None


def _text(value: Any) -> str | None:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return "".join(c for c in text if c.isprintable()).strip() or None if text else None


def _bus_id(value: Any) -> str | None:
    """As in sysfs, where the domain has four digits and not eight."""
    domain, _, rest = (_text(value) or "").lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else None


def _pci_id(number: int) -> str:
    return f"{number & 0xFFFF:04x}:{number >> 16:04x}"


def main() -> None:
    """Print what NVML says; whatever else the driver prints is dropped."""
    if hasattr(signal, "alarm"):
        import resource  # noqa: PLC0415 - not on Windows

        signal.alarm(ORPHAN_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(os.dup(1), "wb") as answers, open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
        answers.write(msgspec.json.encode(read_nvml()))


if __name__ == "__main__":
    main()
