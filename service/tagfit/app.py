"""The one place where the parts are wired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import License, Tag
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Gauge

from tagfit.advice.recommend import prepare
from tagfit.api import (
    estimate,
    hardware,
    health,
    models,
    plan,
    problems,
    pull,
    quantizations,
    recommend,
)
from tagfit.api.daemon import daemon_asker
from tagfit.api.guard import Guard
from tagfit.api.health import VERSION
from tagfit.api.schema import SchemaPlugin
from tagfit.catalog.library import Catalog, UnknownTag, load
from tagfit.catalog.lmstudio_names import name_of
from tagfit.daemon.client import Daemon
from tagfit.daemon.lmstudio import LMStudio
from tagfit.daemon.ollama import Ollama
from tagfit.hardware.disk import read_disk
from tagfit.hardware.probe import Prober
from tagfit.problems import Problem
from tagfit.pulls.shared import Pulls
from tagfit.settings import Settings

HANDLERS = [
    recommend.get_recommendations,
    recommend.post_recommendations,
    estimate.get_estimate,
    estimate.post_estimate,
    plan.get_plan,
    plan.post_plan,
    pull.pull,
    pull.preview,
    pull.api_pull,
    hardware.get_hardware,
    models.list_models,
    models.list_installed,
    models.get_model,
    quantizations.list_quantizations,
    health.live,
    health.ready,
    health.get_version,
    health.metrics,
    health.root,
]

TAGS = [
    Tag("advice", "Which tag fits, and what it needs."),
    Tag("pull", "Pulls through the Ollama daemon."),
    Tag("library", "What is known of models and quantizations."),
    Tag("machine", "What was probed."),
    Tag("operation", "Probes and version."),
]


def create_app(settings: Settings, prober: Prober | None = None) -> Litestar:
    """The application; it reads no environment. Without a prober it makes this machine's."""
    registry = CollectorRegistry()
    Gauge("tagfit_build_info", "Version", ["version"], registry=registry).labels(VERSION).set(1)
    catalog = create_catalog(settings)
    prober = prober or create_prober(settings)
    pulls = create_pulls(settings, registry)

    @asynccontextmanager
    async def preparing(_: Litestar) -> AsyncGenerator[None, None]:
        stopping = Event()
        prepared = asyncio.create_task(asyncio.to_thread(prepare, catalog, stopping.is_set))
        yield
        stopping.set()
        await prepared

    @asynccontextmanager
    async def end_pulls(_: Litestar) -> AsyncGenerator[None, None]:
        yield
        await pulls.aclose()
        await pulls.daemon.aclose()

    return Litestar(
        HANDLERS,
        dependencies={
            "catalog": Provide(lambda: catalog, sync_to_thread=False),
            "prober": Provide(lambda: prober, sync_to_thread=False),
            "registry": Provide(lambda: registry, sync_to_thread=False),
            "settings": Provide(lambda: settings, sync_to_thread=False),
            "pulls": Provide(lambda: pulls, sync_to_thread=False),
            "suggest": Provide(lambda: _suggester(catalog), sync_to_thread=False),
        },
        exception_handlers={
            Problem: problems.answer_problem,
            HTTPException: problems.answer_http_exception,
            Exception: problems.answer_defect,
        },
        lifespan=[preparing, end_pulls],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="tagfit",
            version=VERSION,
            summary="Which Ollama tag fits this machine?",
            license=License(name="MIT", identifier="MIT"),
            tags=TAGS,
            security=[{}],
            path="/schema",
            render_plugins=[SchemaPlugin()],
        ),
        request_max_body_size=settings.max_body,
        state=State({"registry": registry, "pulls": pulls}),
    )


def create_pulls(settings: Settings, registry: CollectorRegistry) -> Pulls:
    """What pulls through the daemon, counted by how it ends."""
    ended = Counter("tagfit_pulls", "Pulls by how they ended", ["outcome"], registry=registry)
    pulls = Pulls(
        create_daemon(settings),
        stall_seconds=settings.stall_timeout,
        on_end=lambda outcome: ended.labels(outcome).inc(),
    )
    running = Gauge("tagfit_pulls_in_progress", "Pulls that run", registry=registry)
    running.set_function(lambda: len(pulls))
    return pulls


def create_catalog(settings: Settings) -> Catalog:
    """The library as the settings' daemon pulls it."""
    catalog = load()
    return catalog if settings.daemon == "ollama" else replace(catalog, pulled_by=settings.daemon)


def create_daemon(settings: Settings) -> Daemon:
    """A client of what pulls."""
    if settings.daemon == "lmstudio":
        catalog = load()
        return LMStudio(
            settings.lmstudio_url,
            settings.lmstudio_token,
            lambda name: name_of(catalog, name).request,
        )
    return Ollama(settings.ollama_url, lambda: _models_directory(settings))


def _models_directory(settings: Settings) -> str | None:
    return read_disk(Path("/"), settings.models_directory, settings.environment).models_directory


def create_prober(settings: Settings) -> Prober:
    """What probes this machine."""
    return Prober(
        environment=settings.environment,
        timeout_seconds=settings.probe_timeout,
        cache_seconds=settings.probe_cache,
        ollama_memory_limit=settings.ollama_memory_limit or None,
        models_directory=settings.models_directory,
        measure_bandwidth=settings.measure_bandwidth,
        ask_daemon=daemon_asker(lambda: create_daemon(settings), load()),
    )


def create_server_app(settings: Settings, prober: Prober | None = None) -> Guard:
    """The application behind its guard: what is served."""
    return guard(create_app(settings, prober), settings)


def guard(app: Litestar, settings: Settings) -> Guard:
    """An application behind its guard."""
    return Guard(app, settings, app.state.registry)


def _suggester(catalog: Catalog) -> Callable[[str], tuple[str, ...]]:
    def suggest(name: str) -> tuple[str, ...]:
        try:
            catalog.find(name)
        except UnknownTag as error:
            return error.suggestions
        return ()

    return suggest
