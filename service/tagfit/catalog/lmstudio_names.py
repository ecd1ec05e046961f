"""What LM Studio calls a tag of the library: a Hugging Face repository and a quantization.

``gguf_repositories.json`` says which repository holds which checkpoint; it is built by
``service/data/build_lmstudio_names.py`` from public listings, and a checkpoint that they lack has
no name. The two forms of a name are documented at https://lmstudio.ai/docs/developer/rest/download
(text of 2026-04-14) and in ``lms get --help`` (github.com/lmstudio-ai/lms, src/subcommands/get.ts
of 2026-08-13).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import msgspec

from tagfit.catalog.library import Catalog, Model, UnknownTag
from tagfit.catalog.names import DEFAULT_HOST, DEFAULT_TAG, ModelName, parse_name

HUGGING_FACE_HOSTS = ("huggingface.co", "hf.co")

_SPELLINGS = {"FP16": "F16", "MXFP4": "MXFP4_MOE"}
"""File names that spell llama.cpp's file type in another way."""


class LMStudioName(msgspec.Struct, frozen=True):
    """A model as LM Studio is asked for it."""

    model: str
    """``https://huggingface.co/owner/repository``, or ``publisher/model`` of its own catalog."""
    quantization: str | None = None
    """As the file spells it; of a Hugging Face repository only. None: LM Studio chooses."""

    @property
    def request(self) -> dict[str, str]:
        """The body of its POST /api/v1/models/download, which tagfit's POST /pull takes too."""
        body = {"model": self.model}
        return body | {"quantization": self.quantization} if self.quantization else body

    @property
    def command(self) -> str:
        """The same for a shell."""
        return f"lms get {self.model}" + (f"@{self.quantization}" if self.quantization else "")


def file_type_of(spelled: str) -> str:
    """llama.cpp's file type of a quantization as a file name spells it."""
    name = spelled.upper()
    return _SPELLINGS.get(name, name)


def lmstudio_name(model: Model, quantization: str) -> LMStudioName | None:
    """Where LM Studio finds a checkpoint in a file type; None where no repository is known."""
    for repository, spellings in _repositories().get(_key(model), {}).items():
        for spelled in spellings:
            if file_type_of(spelled) == quantization:
                return LMStudioName(f"https://huggingface.co/{repository}", spelled)
    return None


def held_by(catalog: Catalog, name: ModelName) -> tuple[Model, str] | None:
    """The checkpoint and file type that ``hf.co/owner/repository:quantization`` holds, if known."""
    if name.host.lower() not in HUGGING_FACE_HOSTS:
        return None
    key = _holders().get((f"{name.namespace}/{name.model}".lower(), file_type_of(name.tag)))
    model = next((model for model in catalog.models if _key(model) == key), None)
    return (model, file_type_of(name.tag)) if model else None


def name_of(catalog: Catalog, text: str) -> LMStudioName:
    """What LM Studio calls a name as tagfit takes it.

    A tag of the library; ``hf.co/owner/repository:Q4_K_M``; or ``publisher/model`` of LM Studio's
    own catalog, which takes no quantization. Raises ValueError for what is no name, UnknownTag for
    what LM Studio cannot be asked for, each with a sentence.
    """
    name = parse_name(text)
    if name.in_library:
        return _name_of_tag(catalog, name)
    wanted = None if name.tag == DEFAULT_TAG else name.tag
    if name.host.lower() in HUGGING_FACE_HOSTS:
        return LMStudioName(f"https://huggingface.co/{name.namespace}/{name.model}", wanted)
    if name.host.lower() != DEFAULT_HOST:
        raise UnknownTag(f"LM Studio downloads from Hugging Face only, not from {name.host}")
    if wanted is not None:
        raise UnknownTag(
            f"LM Studio takes no quantization for a model of its own catalog, as in {name}: pull"
            f" {name.namespace}/{name.model}, or a repository of Hugging Face"
        )
    return LMStudioName(f"{name.namespace}/{name.model}")


def _name_of_tag(catalog: Catalog, name: ModelName) -> LMStudioName:
    model, tag = catalog.find(str(name))
    found = lmstudio_name(model, tag.quantization) if tag.quantization else None
    if found is None:
        raise UnknownTag(
            f"no repository of Hugging Face is known that holds {tag.name} for LM Studio; if there"
            " is one, pull it by its name: hf.co/owner/repository:quantization"
        )
    return found


def _key(model: Model) -> str:
    return f"{model.family}/{model.size}/{model.variant}"


@lru_cache(maxsize=1)
def _holders() -> dict[tuple[str, str], str]:
    return {
        (repository.lower(), file_type_of(spelled)): key
        for key, found in _repositories().items()
        for repository, spellings in found.items()
        for spelled in spellings
    }


@lru_cache(maxsize=1)
def _repositories() -> dict[str, dict[str, tuple[str, ...]]]:
    data = files("tagfit.catalog").joinpath("gguf_repositories.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, dict[str, tuple[str, ...]]])
