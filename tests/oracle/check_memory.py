"""Memory by device, and the layers that ``--fit`` chooses, against a real llama.cpp.

Every architecture of the catalog by its smallest and its largest checkpoint at true size, and
one small model of every kind that llama.cpp loads. Runs where TAGFIT_LLAMA_CPP names the folder
of a static build of b11434. A table of errors by architecture ends the report (conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tagfit.sizing.rules import GIB
from tagfit.sizing.runtime import resolve
from tests.oracle.llama_cpp import run, tools
from tests.oracle.memory_accounts import (
    Account,
    ask,
    llama_account,
    tagfit_account,
    write_model,
)
from tests.oracle.memory_cases import (
    Case,
    Subject,
    catalog_subjects,
    cpu_cases,
    fit_cases,
    forced_cases,
    mixed_cases,
    other_subjects,
    specimen_subjects,
    whole_cases,
)
from tests.oracle.memory_table import ERRORS, KINDS, Errors
from tests.oracle.memory_tool import llama_memory

pytestmark = pytest.mark.skipif(tools() is None, reason="TAGFIT_LLAMA_CPP is not set")

CASES: dict[str, Callable[[Subject], list[Case]]] = dict(
    zip(KINDS, (cpu_cases, whole_cases, forced_cases, fit_cases), strict=True)
)
CATALOG = catalog_subjects()
ALTERNATES = frozenset({"nomic-bert-moe"})
"""Every other block has experts: where a layer more takes less, a search by bisection may end
elsewhere than llama.cpp's by interpolation."""


def accounts(
    subject: Subject, cases: list[Case], folder: Path
) -> Iterator[tuple[Account, Account]]:
    """Each load as llama.cpp and as tagfit accounts for it; without what llama.cpp refuses."""
    path = folder / "model.gguf"
    write_model(path, subject)
    replies = ask(llama_memory(), path, subject, cases)
    path.unlink()
    for case, reply in zip(cases, replies, strict=True):
        wanted = llama_account(subject, case, reply)
        if not wanted.error:
            yield wanted, tagfit_account(subject, case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CATALOG)
def test_memory_by_device_is_llama_cpps(name: str, kind: str, tmp_path: Path) -> None:
    """Weights, caches and compute buffers to the byte, and the layers that ``--fit`` chooses."""
    mine = ERRORS.setdefault(name, Errors())
    # --fit loads a model some twenty times, a large one slowly
    for subject in CATALOG[name][: 1 if kind == "fit" else None]:
        for wanted, found in accounts(subject, CASES[kind](subject), tmp_path):
            mine.add(kind, wanted, found)

    loads = mine.loads[kind]
    assert loads.count
    assert loads.exact == loads.layers
    assert loads.layers == loads.count or (kind == "fit" and name in ALTERNATES)


@pytest.mark.parametrize("name", CATALOG)
def test_every_other_checkpoint_takes_what_it_does(name: str, tmp_path: Path) -> None:
    """A few loads of each shape between the smallest and the largest, all to the byte."""
    errors = Errors()
    for subject in other_subjects(name):
        for wanted, found in accounts(subject, mixed_cases(subject), tmp_path):
            errors.add("partial", wanted, found)

    loads = errors.loads["partial"]
    assert loads.exact == loads.count


@pytest.mark.parametrize("name", CATALOG)
def test_flash_attention_is_off_where_llama_cpp_turns_it_off(name: str, tmp_path: Path) -> None:
    """Left to choose, on a GPU with CUDA's kernels."""
    for subject in CATALOG[name]:
        case = replace(whole_cases(subject)[0], automatic=True)
        path = tmp_path / "model.gguf"
        write_model(path, subject)
        (reply,) = ask(llama_memory(), path, subject, [case])
        chosen = resolve(subject.architecture, GIB, case.hardware, context_length=2048)

        assert reply.buffers
        assert chosen.flash_attention == ("Flash Attention not supported" not in reply.log)


@pytest.mark.parametrize("title", list(specimen_subjects()))
def test_every_kind_of_model_takes_what_it_does_on_a_cpu(title: str, tmp_path: Path) -> None:
    errors = Errors()
    (subject,) = specimen_subjects()[title]
    for wanted, found in accounts(subject, cpu_cases(subject), tmp_path):
        errors.add("cpu", wanted, found)

    loads = errors.loads["cpu"]
    assert loads.exact == loads.count


def test_llama_memory_says_what_llama_fit_params_prints(tmp_path: Path) -> None:
    """The tool that gives bytes and many cases at once is llama-fit-params in all but form."""
    subject = CATALOG["qwen3"][0]
    path = tmp_path / "model.gguf"
    write_model(path, subject)
    arguments = ("-m", str(path), "-c", "8192", "-fa", "on", "-b", "2048", "-ub", "512")
    printed = run("llama-fit-params", *arguments, "--fit", "on", "--fit-print", "on")
    case = next(
        case
        for case in cpu_cases(subject)
        if case.runtime.flash_attention
        and (case.runtime.context_length, case.runtime.micro_batch_size) == (8192, 512)
    )
    reply = ask(llama_memory(), path, subject, [case])[0]
    _, context, _ = llama_account(subject, case, reply).parts[0]

    *_, host = (line.split() for line in printed.splitlines() if line.startswith("Host"))
    assert int(host[2]) == context >> 20
