"""``tagfit``: the same answers in a terminal, and the server."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec
from prometheus_client import CollectorRegistry

from tagfit.advice.answers import Estimate
from tagfit.advice.estimate import read_subject
from tagfit.advice.full_estimate import full_estimate
from tagfit.advice.machine import Machine
from tagfit.advice.plan import Plan, PlanRequest, plan
from tagfit.advice.preflight import forced
from tagfit.advice.recommend import Recommendations, recommend
from tagfit.api.decoding import read_query
from tagfit.api.hardware import answer_probed
from tagfit.api.health import VERSION
from tagfit.api.machines import machine_of_query
from tagfit.api.pull import daemon_facts, look_ahead
from tagfit.api.pull_requests import PreviewQuery, given, read_name
from tagfit.api.requests import EstimateQuery, RecommendQuery
from tagfit.api.schema import encode_document
from tagfit.app import create_app, create_catalog, create_prober, create_pulls
from tagfit.catalog.library import load
from tagfit.hardware.describe import describe
from tagfit.logs import configure_logging
from tagfit.problems import Problem
from tagfit.pulls.shared import Follower, Key
from tagfit.pulls.stream import PullUpdate
from tagfit.server import create_server
from tagfit.settings import Settings, SettingsError, read_settings
from tagfit.units import format_bytes

YOUNG_COLLECTIONS = 1000
"""Of garbage for each full one, in a server; a hundred times Python's own number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int] = parsed.command
    try:
        return command(parsed, read_settings(os.environ))
    except (Problem, SettingsError) as error:
        print(f"tagfit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tagfit", description="Which Ollama tag fits this machine?"
    )
    parser.add_argument("--version", action="version", version=f"tagfit {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, sentence: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=sentence, description=sentence)
        added.set_defaults(command=command)
        return added

    add("serve", _serve, "serve HTTP on TAGFIT_HOST and TAGFIT_PORT")
    asked = add("recommend", _recommend, "the tags that serve best on this or another machine")
    _add_fields(asked, RecommendQuery)
    asked = add("estimate", _estimate, "what one model needs and how it fits")
    asked.add_argument("model", help="a tag: codellama:13b-instruct-q5_K_M")
    _add_fields(asked, EstimateQuery)
    asked = add("plan", _plan, "the least hardware for a model, context and speed")
    asked.add_argument("model", help="a tag: codellama:13b-instruct-q5_K_M")
    _add_fields(asked, PlanRequest)
    asked = add("pull", _pull, "let the Ollama daemon pull a tag that fits")
    asked.add_argument("model", nargs="?", help="a tag; default: the one that serves best here")
    asked.add_argument("--force", action="store_true", help="also what does not fit here")
    asked.add_argument("--insecure", action="store_true", help="plain HTTP with the registry")
    _add_fields(asked, PreviewQuery)
    asked = add("hardware", _hardware, "what was found on this machine")
    asked.add_argument("--json", action="store_true", help="as GET /hardware answers it")
    add("openapi", _openapi, "print the OpenAPI document")
    add("healthcheck", _healthcheck, "exit 0 if the service on this machine is ready")
    return parser


def _add_fields(parser: argparse.ArgumentParser, kind: type[msgspec.Struct]) -> None:
    """An option a query parameter: the command line takes what the URL takes."""
    parser.add_argument("--json", action="store_true", help="the whole answer, as over HTTP")
    for field in msgspec.structs.fields(kind):
        if field.name not in ("model", "format"):
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, dest=field.name, action="append", metavar="VALUE")
    parser.set_defaults(kind=kind)


def _read(parsed: argparse.Namespace) -> Any:
    pairs = [
        (field, text)
        for field in parsed.kind.__struct_fields__
        for text in _texts(getattr(parsed, field, None))
    ]
    return read_query(pairs, parsed.kind)


def _texts(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


async def _machine(query: Any, settings: Settings) -> Machine:
    return await machine_of_query(query, create_prober(settings))


def _recommend(parsed: argparse.Namespace, settings: Settings) -> int:
    query = _read(parsed)
    found = recommend(create_catalog(settings), query, asyncio.run(_machine(query, settings)))
    _print(found, _recommendation_lines(found), json=parsed.json)
    return 0 if found.recommendations else 1


def _estimate(parsed: argparse.Namespace, settings: Settings) -> int:
    query = _read(parsed)
    catalog = load()
    subject = read_subject(catalog, query)
    found = full_estimate(catalog, subject, query, asyncio.run(_machine(query, settings)))
    _print(found, _estimate_lines(found), json=parsed.json)
    return 0


def _plan(parsed: argparse.Namespace, _: Settings) -> int:
    found = plan(load(), _read(parsed))
    _print(found, _plan_lines(found), json=parsed.json)
    return 0


def _print(answer: msgspec.Struct, lines: Sequence[str], *, json: bool) -> None:
    if json:
        # Quantities that were posted are subclasses of int.
        print(msgspec.json.format(msgspec.json.encode(answer, enc_hook=int)).decode())
    else:
        print("\n".join(lines))


def _recommendation_lines(found: Recommendations) -> list[str]:
    lines = [
        f"{one.rank}. {one.tag:40} {one.score:.3f}  {one.estimate.fit.reason}"
        for one in found.recommendations
    ]
    if found.nearest_miss:
        lines.append(f"Nothing fits. {found.nearest_miss.reason}")
    return [*lines, *(f"note: {warning}" for warning in found.warnings)]


def _estimate_lines(found: Estimate) -> list[str]:
    rate = found.speed.generation_tokens_per_second
    return [
        f"{found.model.family} {found.model.quantization}, {found.model.parameters:,} parameters",
        f"download   {format_bytes(found.file.download_bytes)}",
        f"memory     {format_bytes(found.memory.total_bytes)}",
        f"  weights  {format_bytes(found.memory.weights_bytes)}",
        f"  KV cache {format_bytes(found.memory.kv_cache_bytes)}",
        f"  compute  {format_bytes(found.memory.compute_bytes)}",
        f"fit        {found.fit.verdict}: {found.fit.reason}",
        f"ollama ps  {found.fit.processor or 'does not run'}",
        f"context    {found.runtime.context_length}, at most {found.fit.max_context_length}",
        f"speed      {rate.expected:.0f} tokens a second ({rate.low:.0f} to {rate.high:.0f})",
        *(f"better     {step.sentence}" for step in found.fit.next_step or ()),
        *([f"together   {found.together.reason}"] if found.together else []),
        *(f"note: {warning}" for warning in found.warnings),
    ]


def _plan_lines(found: Plan) -> list[str]:
    def row(*texts: str) -> str:
        return "".join(f"{text:>14}" for text in texts)

    def size(count: int | None) -> str:
        return format_bytes(count) if count else "-"

    asked = found.quantizations[0]
    return [
        f"{found.tag}, context {found.context_length}",
        row("", "GPU, free", "sold as", "bandwidth", "CPU only", "download"),
        *(
            row(
                one.quantization,
                size(one.gpu.free_memory_bytes),
                size(one.gpu_memory_bytes),
                f"{one.gpu.bandwidth_bytes_per_second // 10**9} GB/s"
                if one.gpu.bandwidth_bytes_per_second
                else "-",
                size(one.cpu.free_memory_bytes),
                size(one.download_bytes),
            )
            for one in found.quantizations
        ),
        *([f"{asked.quantization} runs on"] if asked.examples else []),
        *(
            f"  {one.name}: {rate.expected:.0f} tokens a second ({rate.low:.0f} to {rate.high:.0f})"
            for one in asked.examples
            for rate in [one.generation_tokens_per_second]
        ),
        *([f"note: {asked.reason}"] if asked.reason else []),
        *(f"note: {warning}" for warning in found.warnings),
    ]


def _pull(parsed: argparse.Namespace, settings: Settings) -> int:
    # A failure is told at the end; other log lines would stand in the middle of the progress.
    configure_logging(msgspec.structs.replace(settings, log_level="error"))
    return asyncio.run(_follow(parsed, settings))


async def _follow(parsed: argparse.Namespace, settings: Settings) -> int:
    wish = _read(parsed)
    text = given(wish.model)
    name = read_name(text, settings) if text else None
    machine = await _machine(wish, settings)
    pulls = create_pulls(settings, CollectorRegistry())
    try:
        facts = await daemon_facts(pulls.daemon)
        preflight = await asyncio.to_thread(
            look_ahead, create_catalog(settings), wish, name, machine, facts
        )
        if parsed.force:
            preflight = forced(preflight)
        if preflight.problem is not None:
            raise preflight.problem
        follower = pulls.follow(
            Key(str(preflight.choice.name), parsed.insecure), preflight.download_bytes
        )
        if parsed.json:
            return await _show_lines(follower)
        print(f"{preflight.choice.name}  {preflight.choice.reason or ''}".rstrip())
        for warning in preflight.warnings:
            print(f"note: {warning}")
        return await _show(follower)
    finally:
        await pulls.aclose()
        await pulls.daemon.aclose()


async def _show_lines(follower: Follower) -> int:
    """The lines of POST /pull."""
    try:
        async for state in follower.states():
            print(state.decode().rstrip(), flush=True)
    finally:
        follower.leave()
    await follower.end()
    return 0


async def _show(follower: Follower) -> int:
    """One line that is written over in a terminal, a line a step elsewhere."""
    shown = ""
    try:
        async for state in follower.states():
            now = msgspec.json.decode(state, type=PullUpdate)
            text = pull_line(now) if sys.stdout.isatty() else now.status
            if text != shown:
                start, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
                print(start + (shown := text), end=end, flush=True)
    finally:
        follower.leave()
        if sys.stdout.isatty():
            print()
    await follower.end()
    return 0


def pull_line(now: PullUpdate) -> str:
    """How far a pull is, for a person."""
    parts: list[str] = [now.status]
    if now.total_bytes:
        done = now.completed_bytes * 100 // now.total_bytes
        parts.append(f"{done} % of {format_bytes(now.total_bytes)}")
    if now.bytes_per_second is not None:
        parts.append(f"{format_bytes(now.bytes_per_second)}/s")
    if now.eta_seconds is not None:
        parts.append(f"{now.eta_seconds // 60}:{now.eta_seconds % 60:02} left")
    return "  ".join(parts)


def _hardware(parsed: argparse.Namespace, settings: Settings) -> int:
    probed = asyncio.run(create_prober(settings).probe())
    if parsed.json:
        _print(answer_probed(probed), (), json=True)
    else:
        print(describe(probed))
    return 0


def _openapi(_: argparse.Namespace, settings: Settings) -> int:
    sys.stdout.write(encode_document(create_app(settings)).decode())
    return 0


def _healthcheck(_: argparse.Namespace, settings: Settings) -> int:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    try:
        httpx.get(f"http://{address}:{settings.port}/readyz", trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        print(f"tagfit: not ready: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    configure_logging(settings)
    server = create_server(settings)
    # what answers keep has no cycles: to look through all of it stops answers for 25 to 100 ms
    gc.set_threshold(*gc.get_threshold()[:2], YOUNG_COLLECTIONS)
    server.run()
    return 0 if server.started else 3  # as uvicorn.run exits
