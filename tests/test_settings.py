"""Configuration is read strictly: a misspelt variable stops the start, with the list."""

import pytest

from tagfit.settings import Settings, SettingsError, read_settings


def test_defaults() -> None:
    assert read_settings({}) == Settings()


def test_variables() -> None:
    settings = read_settings(
        {
            "TAGFIT_HOST": "0.0.0.0",
            "TAGFIT_PORT": "8080",
            "TAGFIT_ALLOWED_HOSTS": "tagfit.example, *.lan",
            "TAGFIT_OLLAMA_MEMORY_LIMIT": "4GiB",
            "TAGFIT_MAX_BODY": "2048",
            "OLLAMA_HOST": "0.0.0.0:11500",
            "OLLAMA_MODELS": "/models",
            "OLLAMA_NUM_PARALLEL": "2",
        }
    )

    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.allowed_hosts == ("tagfit.example", "*.lan")
    assert settings.ollama_memory_limit == 4 * 2**30
    assert settings.max_body == 2048
    assert settings.ollama_url == "http://127.0.0.1:11500"
    assert settings.models_directory == "/models"
    assert settings.environment["OLLAMA_NUM_PARALLEL"] == "2"


def test_lm_studio_in_ollamas_place() -> None:
    settings = read_settings(
        {
            "TAGFIT_DAEMON": "lmstudio",
            "TAGFIT_LMSTUDIO_URL": "http://lm.lan:1234/",
            "TAGFIT_LMSTUDIO_TOKEN": "sk-lm-1",
        }
    )

    assert settings.daemon == "lmstudio"
    assert settings.lmstudio_url == "http://lm.lan:1234"
    assert settings.lmstudio_token == "sk-lm-1"


def test_a_limit_in_bytes_as_the_downward_api_gives_it() -> None:
    assert read_settings({"TAGFIT_OLLAMA_MEMORY_LIMIT": "4294967296"}).ollama_memory_limit == 2**32


def test_variables_that_kubernetes_makes_for_a_service_are_not_ours() -> None:
    """They appear where a Service is called tagfit and service links are on."""
    links = {
        "TAGFIT_SERVICE_HOST": "10.0.0.1",
        "TAGFIT_SERVICE_PORT_HTTP": "80",
        "TAGFIT_PORT": "tcp://10.0.0.1:80",
        "TAGFIT_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert read_settings(links).port == Settings().port


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TAGFIT_PROT": "1"}, "TAGFIT_PORT"),
        ({"TAGFIT_PORT": "99999"}, "TAGFIT_PORT"),
        ({"TAGFIT_LOG_FORMAT": "xml"}, "TAGFIT_LOG_FORMAT"),
        ({"TAGFIT_OLLAMA_MEMORY_LIMIT": "4G"}, "TAGFIT_OLLAMA_MEMORY_LIMIT"),
        ({"TAGFIT_OLLAMA_MEMORY_LIMIT": "4096"}, "4096 without a unit"),
        ({"TAGFIT_OLLAMA_URL": "http://x"}, "TAGFIT_OLLAMA_URL"),
        ({"OLLAMA_HOST": "ftp://x"}, "OLLAMA_HOST"),
        ({"TAGFIT_DAEMON": "llama.cpp"}, "TAGFIT_DAEMON"),
        ({"TAGFIT_LMSTUDIO_URL": "lm.lan:1234"}, "TAGFIT_LMSTUDIO_URL"),
        ({"TAGFIT_LMSTUDIO_TOKEN": "not\na header"}, "TAGFIT_LMSTUDIO_TOKEN"),
    ],
)
def test_what_cannot_be_used_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(environment)
