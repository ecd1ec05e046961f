"""The shipped catalog: every tag of the library, found by each of its names."""

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from tagfit.catalog import library
from tagfit.catalog.library import Catalog, UnknownTag, load
from tagfit.sizing.generations import MIXTURES
from tagfit.sizing.mixtures import FILE_TYPES
from tests.stopwatch import milliseconds

LISTING = Path(__file__).parents[2] / "service" / "data" / "sources" / "ollama_library.json"
FIRST_FAMILIES = (
    *("codellama", "llama2", "llama3.1", "llama3.2", "llama3.3", "mistral"),
    *("deepseek-coder", "qwen2.5-coder", "qwen2.5"),
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def names(catalog: Catalog) -> list[str]:
    return list(chain.from_iterable((tag.name, *tag.aliases) for tag in catalog.tags))


def test_every_tag_of_the_library_is_listed_once(catalog: Catalog) -> None:
    pages = json.loads(LISTING.read_text())["models"]
    listed = {
        f"{family}:{row['tag']}"
        for family, page in pages.items()
        for row in page["tags"]
        if " " not in row["tag"]  # an artefact of the page, see build_catalog.manifests
    }

    assert Counter(names(catalog)) == Counter(listed)


@pytest.mark.parametrize("family", FIRST_FAMILIES)
def test_each_name_finds_its_manifest(catalog: Catalog, family: str) -> None:
    page = json.loads(LISTING.read_text())["models"][family]

    for row in page["tags"]:
        model, tag = catalog.find(f"{family}:{row['tag']}")
        assert (model.family, tag.digest) == (family, row["digest"])


def test_the_tag_of_a_quantization_is_the_one_whose_name_says_it(catalog: Catalog) -> None:
    for model in catalog.models:
        for tag in model.tags:
            said = tag.quantization and tag.name.lower().endswith(tag.quantization.lower())
            if said and tag.quantization:
                assert model.tag(tag.quantization) == tag


def test_every_local_tag_of_a_model_can_be_computed(catalog: Catalog) -> None:
    for model in catalog.models:
        assert model.mixture in MIXTURES
        for tag in model.tags:
            assert (tag.quantization in FILE_TYPES) == (tag.kind == "gguf"), tag.name


def test_every_model_says_where_it_comes_from(catalog: Catalog) -> None:
    for model in catalog.models:
        assert model.architecture_source.startswith("https://")
        assert model.released
        assert model.licence
        assert model.capabilities


@pytest.mark.parametrize(
    "name",
    [
        "codellama:13b",
        "CodeLlama:13B-Instruct-Q4_0",
        "library/codellama:13b-instruct",
        "registry.ollama.ai/library/codellama:13b",
        "https://registry.ollama.ai/library/codellama:13b",
    ],
)
def test_all_names_of_a_tag_lead_to_the_one_that_says_most(catalog: Catalog, name: str) -> None:
    model, tag = catalog.find(name)

    assert (model.family, model.size, model.variant) == ("codellama", "13b", "instruct")
    assert (tag.name, tag.quantization) == ("codellama:13b-instruct-q4_0", "Q4_0")


def test_a_family_alone_is_its_latest_tag(catalog: Catalog) -> None:
    assert catalog.find("codellama") == catalog.find("codellama:latest")
    assert catalog.find("codellama")[1].name == "codellama:7b-instruct-q4_0"


def test_variants_of_one_size_may_differ_in_vocabulary(catalog: Catalog) -> None:
    sizes = {
        variant: catalog.find(f"codellama:7b-{variant}")[0].architecture.vocab_size
        for variant in ("code", "instruct", "python")
    }

    assert sizes == {"code": 32016, "instruct": 32016, "python": 32000}


def test_each_tag_keeps_the_rules_of_its_day(catalog: Catalog) -> None:
    assert catalog.find("codellama:34b-code-q2_K")[0].mixture == "llama.cpp-2023"
    assert catalog.find("codellama:70b-code-q2_K")[0].mixture == "llama.cpp-2024"


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("codellama:7b-code", {"completion", "insert"}, {"chat", "tools"}),
        ("codellama:7b-instruct", {"completion", "chat"}, {"insert"}),
        ("llama3.1:8b-instruct-q4_0", {"tools", "chat"}, {"insert"}),
        ("llama3.1:8b-text-q4_0", {"completion"}, {"tools", "chat"}),
        ("mistral:7b-instruct-v0.2-q4_0", {"chat"}, {"tools"}),
        ("mistral:7b", {"chat", "tools"}, set()),
        ("qwen2.5-coder:7b", {"chat", "tools", "insert"}, set()),
        ("qwen2.5-coder:7b-base", {"insert"}, {"chat", "tools"}),
    ],
)
def test_capabilities_follow_the_variant(
    catalog: Catalog, name: str, present: set[str], absent: set[str]
) -> None:
    capabilities = set(catalog.find(name)[0].capabilities)

    assert present <= capabilities
    assert not absent & capabilities


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("codelama:13b", "codellama:13b"),
        ("llama3.1:9b", "llama3.1:8b"),
        ("llama3.1:8b-instruct-q4_K_X", "llama3.1:8b-instruct-q4_K_M"),
        ("qwen2.5:7b-q4_k_m", "qwen2.5:7b-instruct-q4_K_M"),
        ("qwen2.5-code:7b", "qwen2.5-coder:7b"),
        ("lama3", "llama3:latest"),
        ("library/Mistrall", "mistral:latest"),
    ],
)
def test_an_unknown_name_gets_near_ones(catalog: Catalog, wrong: str, meant: str) -> None:
    with pytest.raises(UnknownTag) as caught:
        catalog.find(wrong)

    assert caught.value.suggestions[0] == meant
    assert set(caught.value.suggestions) <= set(names(catalog))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gemma3:27b-cloud", "Ollama's servers"),
        ("hf.co/user/repo:Q4_K_M", "not in the Ollama library"),
        ("xyzzy", "no tag xyzzy:latest"),
    ],
)
def test_what_cannot_be_sized_says_why(catalog: Catalog, name: str, sentence: str) -> None:
    with pytest.raises(UnknownTag, match=sentence) as caught:
        catalog.find(name)

    assert caught.value.suggestions == ()


def test_what_runs_elsewhere_is_marked(catalog: Catalog) -> None:
    kinds = {name: tag.kind for tag in catalog.tags for name in (tag.name, *tag.aliases)}

    assert kinds["gemma3:27b-cloud"] == "cloud"
    assert kinds["qwen3.5:27b-nvfp4"] == kinds["qwen3.5:27b-mlx"] == "mlx"
    assert kinds["qwen3.5:27b-q8_0"] == "gguf"


def test_the_catalog_loads_in_150_ms() -> None:
    def load_and_find() -> None:
        library.load.cache_clear()
        load().find("codellama")

    assert milliseconds(load_and_find, rounds=5) < 150
