"""A posted machine: by names, by numbers or both, and what is assumed where it does not say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.advice.machine import Machine, PostedHardware, read_machine
from tagfit.catalog.library import load
from tagfit.hardware.apple import metal_memory_bytes
from tagfit.problems import InvalidRequest
from tagfit.units import decode_quantity

GIB = 2**30


def machine(**posted: Any) -> Machine:
    return read_machine(msgspec.convert(posted, PostedHardware, dec_hook=decode_quantity))


def said(found: Machine) -> str:
    return "\n".join(found.assumptions)


def loaded(gibibytes: float, model: str = "llama3.1:8b") -> dict[str, Any]:
    size = int(gibibytes * GIB)
    return {"loaded": [{"model": model, "memory": size, "gpu_memory": size}]}


@pytest.mark.parametrize(
    ("name", "count", "gibibytes", "gigabytes_per_second"),
    [
        ("RTX 4060 Ti 16GB", 1, 16, 288),
        ("2x RTX 3090", 2, 24, 936),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 1, 19.5, 777.5),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 1, 8.6, 419),
    ],
)
def test_a_gpu_by_name(
    name: str, count: int, gibibytes: float, gigabytes_per_second: float
) -> None:
    gpus = machine(gpus=[{"name": name}], memory="64GiB").hardware.gpus

    assert len(gpus) == count
    assert gpus[0].memory_bytes / GIB == pytest.approx(gibibytes, abs=0.05)
    assert gpus[0].bandwidth_bytes_per_second == gigabytes_per_second * 1e9
    assert gpus[0].compute_flops


def test_numbers_win_over_names() -> None:
    found = machine(
        gpus=[
            {"name": "RTX 3060", "memory": "8GiB", "free_memory": "6GiB", "bandwidth": "200GB/s"}
        ],
        memory="32GiB",
    )

    (gpu,) = found.hardware.gpus
    assert (gpu.memory_bytes, gpu.free_memory_bytes) == (8 * GIB, 6 * GIB)
    assert gpu.bandwidth_bytes_per_second == 200e9


def test_llama_cpp_uses_sixteen_gpus_and_the_rest_is_said() -> None:
    found = machine(gpus=[{"name": "RTX 3060"}, {"name": "19x RTX 3090"}], memory="64GiB")

    assert [gpu.memory_bytes // 10**9 for gpu in found.hardware.gpus] == [12] + [25] * 15
    assert "at most 16 GPUs: of these 20 the first count" in said(found)


def test_unlike_gpus_stay_in_their_order() -> None:
    gpus = machine(gpus=[{"name": "RTX 3090"}, {"name": "RX 7900 XTX"}, {"memory": "8GiB"}])

    assert [gpu.backend for gpu in gpus.hardware.gpus] == ["cuda", "rocm", "cuda"]


def test_an_unknown_name_with_its_memory_is_said_to_be_unknown() -> None:
    found = machine(gpus=[{"name": "RTX 9999", "memory": "40GiB"}], memory="64GiB")

    assert found.hardware.gpus[0].bandwidth_bytes_per_second is None
    assert "RTX 9999: memory bandwidth unknown" in said(found)


def test_an_unknown_name_without_memory_is_refused_with_near_names() -> None:
    with pytest.raises(InvalidRequest, match="no GPU of this name is known") as refused:
        machine(gpus=[{"name": "RTX 6000"}])

    assert "NVIDIA RTX 6000 Ada Generation" in refused.value.suggestions


def test_a_name_that_could_mean_two_is_taken_for_the_first_and_said() -> None:
    assert "could also be NVIDIA GeForce RTX 4060 Ti 16 GB" in said(
        machine(gpus=[{"name": "RTX 4060 Ti"}])
    )
    assert "could also be" not in said(machine(gpus=[{"name": "RTX 4060 Ti 16GB"}]))


@pytest.mark.parametrize(
    ("posted", "message"),
    [
        ({"gpus": [{"name": "0x RTX 3090"}]}, "none of them"),
        ({"gpus": [{"name": "99x RTX 3090", "count": 64}]}, "more than 64 GPUs"),
        ({"gpus": [{}]}, "a known name or its memory"),
        ({"gpus": [{"name": "RTX 3060", "free_memory": "13GiB"}]}, "more than the"),
        ({"memory": "8GiB", "free_memory": "9GiB"}, "more than the"),
        ({"memory": 10**30}, "more than"),
        ({"gpus": [{"memory": "9999999PiB"}]}, "more than"),
        ({"bandwidth": 10**30}, "more than"),
        ({"disk_free": 10**30}, "more than"),
        ({"gpus": [{"name": "RTX 3060", "bandwidth": "360MB/s"}]}, "at least 1GB/s"),
    ],
)
def test_what_no_machine_has_is_refused(posted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        machine(**posted)


@pytest.mark.parametrize(
    "posted", [{"memory": 0}, {"gpus": [{"name": "RTX 3060", "memory": "0GiB"}]}]
)
def test_a_memory_of_0_is_refused_and_null_is_not_known(posted: dict[str, Any]) -> None:
    """0 would read as none at all."""
    with pytest.raises(InvalidRequest, match="null, where it is not known"):
        machine(**posted)

    found = machine(memory=None)
    assert found.hardware.memory_bytes == 8 * GIB
    assert "RAM not known: 8.0 GiB assumed" in said(found)


def test_nothing_free_is_not_unknown() -> None:
    found = machine(gpus=[{"name": "RTX 3060", "free_memory": 0}], memory="8GiB", free_memory=0)

    assert found.hardware.gpus[0].free_memory_bytes == 0
    assert found.hardware.free_memory_bytes == 0


@pytest.mark.parametrize(
    "posted",
    [
        {"gpus": [{"name": "M3 Max 64GB"}]},
        {"gpus": [{"name": "M3 Max"}], "memory": "64GiB"},
        {"gpus": [{"name": "M3 Max", "memory": "64GiB"}], "memory": "64GiB"},
        {"gpus": [{"name": "Apple M3 Max", "memory": "64GiB", "backend": "metal"}]},
        {"gpus": [{"memory": "64GiB", "backend": "metal"}]},
    ],
)
def test_a_mac_gives_metal_its_share_of_the_memory(posted: dict[str, Any]) -> None:
    """The same rule that the probe of a Mac uses."""
    found = machine(**posted)

    (gpu,) = found.hardware.gpus
    assert found.hardware.unified_memory
    assert found.hardware.memory_bytes == 64 * GIB
    assert gpu.memory_bytes == gpu.free_memory_bytes == metal_memory_bytes(64 * GIB)
    assert "macOS 26 lets Metal have" in said(found)


def test_a_wired_limit_of_a_mac_is_its_gpus_memory() -> None:
    found = machine(gpus=[{"name": "M3 Max", "memory": "56GiB"}], memory="64GiB")

    (gpu,) = found.hardware.gpus
    assert gpu.memory_bytes == 56 * GIB
    assert gpu.bandwidth_bytes_per_second == 400e9, "the 40-core part, which is sold with 64 GB"


def test_an_apu_has_half_of_the_memory_unless_it_is_said() -> None:
    default = machine(gpus=[{"name": "Ryzen AI Max+ 395"}], memory="128GiB")
    carved = machine(gpus=[{"name": "Ryzen AI Max+ 395", "memory": "96GiB"}], memory="128GiB")

    assert default.hardware.gpus[0].memory_bytes == 64 * GIB
    assert "Linux lets the GPU have" in said(default)
    assert carved.hardware.gpus[0].memory_bytes == 96 * GIB
    assert carved.hardware.unified_memory
    assert "OLLAMA_IGPU_ENABLE" not in said(default)


def test_memory_that_the_firmware_set_aside_is_the_gpus_own() -> None:
    """The system counts the other 32 of 128 GiB."""
    found = machine(gpus=[{"name": "Ryzen AI Max+ 395", "memory": "96GiB"}], memory="32GiB")

    assert found.hardware.gpus[0].memory_bytes == 96 * GIB
    assert not found.hardware.unified_memory


def test_an_integrated_gpu_that_ollama_does_not_use_by_itself_is_said() -> None:
    off = machine(gpus=[{"name": "Radeon 780M"}], memory="32GiB")
    on = machine(gpus=[{"name": "Radeon 780M"}], memory="32GiB", ollama={"OLLAMA_IGPU_ENABLE": "1"})

    assert "only with OLLAMA_IGPU_ENABLE=1" in said(off)
    assert "OLLAMA_IGPU_ENABLE" not in said(on)


def test_cores_stand_in_a_processors_name() -> None:
    by_name = machine(cpu="AMD EPYC 9654 96-Core Processor", memory="64GiB")
    both = machine(cpu="AMD EPYC 9654 96-Core Processor", cores=8, memory="64GiB")
    unknown = machine(cpu="AMD EPYC 9654", memory="64GiB")

    assert by_name.hardware.cores == 96
    assert both.hardware.cores == 8
    assert "cores of AMD EPYC 9654 not known" in said(unknown)


def test_an_unknown_processor_is_said() -> None:
    assert "wat: memory bandwidth unknown" in said(machine(cpu="wat", memory="8GiB"))
    assert "bandwidth" not in said(machine(cpu="wat", bandwidth="50GB/s", memory="8GiB"))


@pytest.mark.parametrize("version", ["0.12.6", "0.29.9", "v0.3.0", "0.9"])
def test_an_ollama_with_an_engine_of_its_own_is_said(version: str) -> None:
    found = machine(memory="8GiB", daemon={"version": version})

    assert found.ollama_version == version
    assert f"Ollama {version} places layers with an engine of its own" in said(found)


@pytest.mark.parametrize("version", ["0.30.0", "0.30.0-rc1", "0.33.3", "1.0.0", "0.0.0", "", "x"])
def test_a_later_ollama_or_one_of_unsaid_version_is_not_doubted(version: str) -> None:
    assert "engine of its own" not in said(machine(memory="8GiB", daemon={"version": version}))


def test_what_is_installed_is_known_under_every_name() -> None:
    _, tag = load().find("codellama:7b")
    for name in (tag.name, "codellama:7b", "CodeLlama", "codellama:latest"):
        assert machine(daemon={"installed": [name]}).has(tag), name

    assert not machine(daemon={"installed": ["codellama:13b"]}).has(tag)
    assert not machine().has(tag)


def test_memory_of_loaded_models_comes_back() -> None:
    """Ollama unloads idle models for one that needs room."""
    found = machine(
        gpus=[{"name": "RTX 3060", "free_memory": "5GiB"}], memory="32GiB", daemon=loaded(6)
    )

    assert found.hardware.gpus[0].free_memory_bytes == 11 * GIB
    assert "loaded now: llama3.1:8b; Ollama unloads idle models" in said(found)


def test_no_more_comes_back_than_is_used() -> None:
    found = machine(
        gpus=[{"name": "RTX 3060", "free_memory": "10GiB"}], memory="32GiB", daemon=loaded(6)
    )
    idle = machine(gpus=[{"name": "RTX 3060"}], memory="32GiB", daemon=loaded(6))

    assert found.hardware.gpus[0].free_memory_bytes == 12 * GIB
    assert "loaded now" not in said(idle)


def test_several_gpus_get_back_what_is_used_of_each() -> None:
    """Which of them holds the model is not told."""
    found = machine(
        gpus=[
            {"memory": "12GiB", "free_memory": "6GiB"},
            {"memory": "24GiB", "free_memory": "21GiB"},
        ],
        memory="32GiB",
        daemon=loaded(6),
    )

    assert [gpu.free_memory_bytes for gpu in found.hardware.gpus] == [10 * GIB, 23 * GIB]


def test_in_unified_memory_the_machine_gets_it_back() -> None:
    found = machine(
        gpus=[{"name": "M3 Max 64GB"}], memory="64GiB", free_memory="40GiB", daemon=loaded(10)
    )

    assert found.hardware.free_memory_bytes == 50 * GIB


numbers = st.one_of(
    st.integers(-1, 2**70), st.sampled_from(["12GiB", "0GiB", "0.5GiB", "64GB", None, "12"])
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "gpus": st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "name": st.one_of(
                            st.text(max_size=20),
                            st.sampled_from(["M3 Max", "2x RTX 3090", "A100 MIG 1g.5gb", "8060S"]),
                        ),
                        "memory": numbers,
                        "free_memory": numbers,
                        "bandwidth": numbers,
                        "count": st.integers(1, 64),
                        "backend": st.sampled_from(["cuda", "metal", "rocm", "vulkan"]),
                    },
                ),
                max_size=3,
            ),
            "memory": numbers,
            "free_memory": numbers,
            "cpu": st.one_of(
                st.text(max_size=20), st.sampled_from(["0 channels DDR4-3200", "0-core", "N100"])
            ),
            "unified_memory": st.booleans(),
            "ollama": st.dictionaries(st.sampled_from(["OLLAMA_IGPU_ENABLE"]), st.text()),
            "daemon": st.one_of(st.none(), st.just({"version": "9" * 30}), st.just(loaded(99))),
        },
    )
)
def test_whatever_is_posted_is_a_machine_or_refused(posted: dict[str, Any]) -> None:
    try:
        hardware = machine(**posted).hardware
    except (InvalidRequest, msgspec.ValidationError):
        return

    assert 0 <= hardware.free_memory_bytes <= hardware.memory_bytes
    assert hardware.memory_bytes > 0
    assert hardware.cores >= 1
    for gpu in hardware.gpus:
        assert 0 <= gpu.free_memory_bytes <= gpu.memory_bytes
        assert gpu.memory_bytes > 0
