"""``llama-memory``: llama.cpp's accounting in bytes, on the CPU and on stand-ins for CUDA GPUs.

Built beside the tools in TAGFIT_LLAMA_CPP from the same sources. Which operations a stand-in
supports, what it takes over from the host and how large its buffers are is cut out of
llama.cpp's CUDA backend, so that it follows that source and not a reading of it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.oracle.llama_cpp import tools

SOURCES = Path(__file__).parent / "llama_memory"
CUDA_RULES = {
    "ggml-cuda/fwht.cu": ["bool ggml_cuda_op_mul_mat_use_fwht("],
    "ggml-cuda/fattn-common.cuh": [
        "struct ggml_cuda_flash_attn_ext_f16_extra_data {",
        "static inline ggml_cuda_flash_attn_ext_f16_extra_data ggml_cuda_flash_attn_ext_get_f16",
    ],
    "ggml-cuda/fattn.cu": [
        "enum best_fattn_kernel {",
        "static bool ggml_cuda_fattn_kv_type_supported(",
        "static best_fattn_kernel ggml_cuda_get_best_fattn_kernel(",
        "size_t ggml_cuda_flash_attn_ext_get_alloc_size(",
        "bool ggml_cuda_flash_attn_ext_supported(",
    ],
    "ggml-cuda/ggml-cuda.cu": [
        "static size_t ggml_backend_cuda_buffer_type_get_alignment(",
        "static size_t ggml_backend_cuda_buffer_type_get_alloc_size(",
        "static bool ggml_backend_cuda_device_supports_op(",
        "static int64_t get_op_batch_size(",
        "static bool ggml_backend_cuda_device_offload_op(",
    ],
}
"""Where a definition begins; it ends at the next closing brace of the first column."""


def cuda_rules(source: Path) -> str:
    """The definitions of the CUDA backend that decide sizes and placement."""
    found = []
    for name, starts in CUDA_RULES.items():
        text = (source / "ggml" / "src" / name).read_text()
        for start in starts:
            begin = text.index(f"\n{start}") + 1
            end = re.compile(r"^\};?$", re.MULTILINE).search(text, begin)
            assert end is not None, start
            found.append(text[begin : end.end()])
    return "\n".join(found)


def llama_memory() -> Path:
    """The tool for the build that TAGFIT_LLAMA_CPP names."""
    folder = tools()
    if folder is None:
        msg = "TAGFIT_LLAMA_CPP names no folder"
        raise LookupError(msg)
    return build(folder)


def build(folder: Path) -> Path:
    """``llama-memory`` beside the tools of a static build, compiled if its sources are newer."""
    binary = folder / "llama-memory"
    inputs = [*SOURCES.iterdir(), Path(__file__)]
    if binary.exists() and all(binary.stat().st_mtime > path.stat().st_mtime for path in inputs):
        return binary
    tree = folder.parent
    home = re.search(
        r"^CMAKE_HOME_DIRECTORY:.*=(.*)$", (tree / "CMakeCache.txt").read_text(), re.MULTILINE
    )
    assert home is not None
    source = Path(home[1])
    rules = tree / "cuda_rules"
    rules.mkdir(exist_ok=True)
    (rules / "cuda_rules.inc").write_text(cuda_rules(source))
    includes = ("include", "common", "src", "ggml/include", "ggml/src")
    libraries = ("common/libllama-common", "common/libllama-common-base", "src/libllama")
    vendor = "vendor/cpp-httplib/libcpp-httplib"
    ggml = ("ggml/src/libggml", "ggml/src/libggml-cpu", "ggml/src/libggml-base")
    command = [
        *("c++", "-std=c++17", "-O1", "-w", f"-I{rules}"),
        *(f"-I{source / include}" for include in includes),
        *(str(path) for path in sorted(SOURCES.glob("*.cpp"))),
        "-Wl,--start-group",
        *(f"{tree / name}.a" for name in (*libraries, vendor, *ggml)),
        *("-Wl,--end-group", "-lpthread", "-ldl", "-lm", "-o", str(binary)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return binary
