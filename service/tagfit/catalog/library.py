"""The Ollama library as of one day: families, checkpoints and the tags that hold them.

``models.json`` is built by ``service/data/build_catalog.py`` from the sources beside it.

* ``Catalog``   all of it
  x ``Family``  one page of the library: ``codellama``
  x ``Model``   one checkpoint: ``codellama`` 13b instruct
    + ``Tag``   one file of it and its names: ``codellama:13b-instruct-q5_K_M``
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Literal

import msgspec

from tagfit.catalog.names import parse_name
from tagfit.catalog.nearness import nearest
from tagfit.facts import Architecture

Kind = Literal["gguf", "mlx", "cloud"]
"""``gguf`` runs wherever Ollama does, ``mlx`` only on Apple silicon, ``cloud`` not locally."""
Puller = Literal["ollama", "lmstudio"]


class Tag(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One manifest of the library."""

    name: str
    """The name that says most, as it is pulled: ``codellama:13b-instruct-q5_K_M``."""
    quantization: str | None = None
    """File type, ``Q5_K_M``; None where llama.cpp's quantizer did not make it (MLX, cloud)."""
    digest: str
    """The first 12 hex digits of the manifest's digest."""
    context_length: int | None = None
    """As the library lists it, for this manifest."""
    aliases: tuple[str, ...] = ()
    """Other names of the same manifest: ``codellama:13b``."""
    kind: Kind = "gguf"
    vision_bytes: int = 0
    """The image encoder's tensors, in the same file or as a projector layer of its own."""


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One checkpoint: everything that its tags have in common."""

    family: str
    size: str
    """The label in its tags, ``13b``; empty where they have none."""
    variant: str
    """What else distinguishes it in its tags: ``instruct``, ``text-v0.2``; often empty."""
    architecture: Architecture
    architecture_source: str
    """The public configuration that the hyper-parameters come from."""
    parameters: int
    """Exact count of the language model's tensors."""
    capabilities: tuple[str, ...]
    """Ollama's words: completion, tools, insert (fill-in-the-middle), vision, embedding,
    thinking, audio; and ``chat`` where the checkpoint is tuned to converse."""
    released: str
    """Day or month of the checkpoint's publication, ISO 8601."""
    licence: str
    mixture: str
    """Whose rules chose the tensor types of its tags: a key of ``sizing.mixtures.MIXTURES``."""
    header_bytes: int
    """Metadata, tokenizer and tensor list at the start of the GGUF file, predicted."""
    vision_bytes: int = 0
    """The image encoder's tensors, not quantized; a tag's own figure counts where there is one."""
    vision_blocks: int = 0
    """Blocks of an encoder in the same file, whose attn_v the quantizer counts with the text's."""
    other_layers_bytes: int = 12_000
    """Template, licence, parameters: the manifest's small layers (median of 263 manifests)."""
    tags: tuple[Tag, ...]

    @property
    def context_length(self) -> int:
        """Trained context in tokens."""
        return self.architecture.context_length

    def fixed_bytes(self, tag: Tag | None) -> int:
        """What a download holds beside the language model's tensors.

        Header, image encoder and small layers; without a tag, those of a fresh conversion.
        """
        vision = tag.vision_bytes if tag else self.vision_bytes
        return self.header_bytes + vision + self.other_layers_bytes

    def tag(self, quantization: str) -> Tag | None:
        """The tag that holds this file type, if the library has one."""
        return next((tag for tag in self.tags if tag.quantization == quantization), None)


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the library."""

    name: str
    pulls: int
    updated: str
    sizes: tuple[str, ...]
    capabilities: tuple[str, ...]


class UnknownTag(LookupError):  # noqa: N818 - what it is, not that it went wrong
    """No such tag in the catalog; near names are in ``suggestions``."""

    def __init__(self, sentence: str, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.suggestions = suggestions


class Catalog(msgspec.Struct, frozen=True, kw_only=True, dict=True, eq=False, omit_defaults=True):
    """Everything that is known of the library on one day."""

    snapshot_date: str
    families: tuple[Family, ...]
    models: tuple[Model, ...]
    pulled_by: Puller = "ollama"
    """What is to pull the tags; it may have other names for them, or none."""
    others: tuple[Tag, ...] = ()
    """Tags whose architecture is not in the catalog: those that run in Ollama's cloud, mostly."""

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        """Every tag of the library, listed once whatever its aliases."""
        return tuple(tag for model in self.models for tag in model.tags) + self.others

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for tag in self.tags for name in (tag.name, *tag.aliases))

    @cached_property
    def _by_name(self) -> dict[str, tuple[Model | None, Tag]]:
        pairs = [(model, tag) for model in self.models for tag in model.tags]
        return {
            name.lower(): (model, tag)
            for model, tag in [*((None, tag) for tag in self.others), *pairs]
            for name in (tag.name, *tag.aliases)
        }

    def find(self, name: str) -> tuple[Model, Tag]:
        """The checkpoint and the manifest that a name stands for.

        ``codellama`` is ``codellama:latest``; case and the library's own prefixes do not
        matter. Raises ValueError for what is no name, UnknownTag for a name that is not here.
        """
        parsed = parse_name(name)
        if not parsed.in_library:
            raise UnknownTag(f"{parsed} is not in the Ollama library, so nothing is known of it")
        model, tag = self._by_name.get(str(parsed).lower(), (None, None))
        if tag is None:
            raise UnknownTag(
                f"there is no tag {parsed} in the Ollama library of {self.snapshot_date}",
                nearest(parsed.model, parsed.tag, self._names),
            )
        if model is None:
            raise UnknownTag(
                f"{parsed} runs on Ollama's servers, not on this machine"
                if tag.kind == "cloud"
                else f"{parsed} exists, but its architecture is not in the catalog",
            )
        return model, tag


@lru_cache(maxsize=1)
def load() -> Catalog:
    """The catalog that is shipped with the program."""
    data = files("tagfit.catalog").joinpath("models.json").read_bytes()
    return msgspec.json.decode(data, type=Catalog)
