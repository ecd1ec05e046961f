"""``/recommend``: the tags that serve a use best on a machine.

Computed in a thread: a first answer for a machine takes up to seconds, and probes must not wait.
What is posted with its hardware has one answer for as long as the process lives, so the last ones
are kept.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency

from tagfit.advice.machine import Machine, PostedHardware, read_machine
from tagfit.advice.recommend import Recommendations, RecommendRequest, recommend
from tagfit.advice.roles import RecommendedSet, recommend_set
from tagfit.api.decoding import read_json, read_query
from tagfit.api.machines import machine_of, machine_of_parameters
from tagfit.api.requests import RecommendBody, RecommendQuery, posted_hardware
from tagfit.api.schema import describes
from tagfit.catalog.library import Catalog
from tagfit.hardware.probe import Prober
from tagfit.problems import InvalidRequest, NothingFits

KEPT_ANSWERS = 512
"""Of each way of asking; some 20 kB each."""


@get(
    "/recommend",
    operation_id="getRecommendations",
    tags=["advice"],
    opt=describes(
        Recommendations, takes=RecommendQuery, also={"text/plain": str}, problems="400 404"
    ),
)
async def get_recommendations(
    request: Request[Any, Any, Any],
    catalog: NamedDependency[Catalog],
    prober: NamedDependency[Prober],
) -> Response[Any]:
    """The best tags, asked by query parameters; ``format=tag`` answers the first as plain text."""
    query = read_query(request.query_params.multi_items(), RecommendQuery)
    if posted_hardware(query) is not None:
        return (await asyncio.to_thread(_answer_query, catalog, request.url.query)).response
    machine = await machine_of(None, prober)
    return (await asyncio.to_thread(_answer, catalog, query, machine)).response


@post(
    "/recommend",
    operation_id="postRecommendations",
    tags=["advice"],
    status_code=200,
    opt=describes(
        Recommendations | RecommendedSet,
        takes=RecommendBody,
        also={"text/plain": str},
        problems="400 404 413 415",
    ),
)
async def post_recommendations(
    request: Request[Any, Any, Any],
    catalog: NamedDependency[Catalog],
    prober: NamedDependency[Prober],
) -> Response[Any]:
    """The best tags, asked by a JSON body; for several roles a set that fits together."""
    text = await request.body()
    body = read_json(text, RecommendBody)
    if body.hardware is not None:
        return (await asyncio.to_thread(_answer_body, catalog, text)).response
    machine = await machine_of(None, prober)
    return (await asyncio.to_thread(_answer, catalog, body, machine)).response


class _Content(NamedTuple):
    """What is answered."""

    body: bytes
    media_type: str

    @property
    def response(self) -> Response[bytes]:
        return Response(self.body, media_type=self.media_type)


@lru_cache(maxsize=KEPT_ANSWERS)
def _answer_query(catalog: Catalog, text: str) -> _Content:
    query = read_query(parse_qsl(text, keep_blank_values=True), RecommendQuery)
    return _answer(
        catalog, query, machine_of_parameters(posted_hardware(query) or PostedHardware())
    )


@lru_cache(maxsize=KEPT_ANSWERS)
def _answer_body(catalog: Catalog, text: bytes) -> _Content:
    body = read_json(text, RecommendBody)
    return _answer(catalog, body, read_machine(body.hardware or PostedHardware()))


def _answer(catalog: Catalog, asked: RecommendQuery | RecommendBody, machine: Machine) -> _Content:
    if isinstance(asked, RecommendBody) and asked.roles:
        _check_only_roles(asked)
        together = recommend_set(catalog, asked.roles, machine, explain=asked.explain)
        if asked.format == "tag" and not together.together.fits:
            raise NothingFits(together.together.reason)
        return _encode(together, asked.format)
    found = recommend(catalog, asked, machine)
    if asked.format == "tag" and not found.recommendations:
        limits = "; ".join(f"{count} tags: {limit}" for limit, count in found.excluded.items())
        why = found.nearest_miss.reason if found.nearest_miss else limits
        raise NothingFits(f"No tag serves {found.use_case} here: {why.rstrip('.')}.")
    return _encode(found, asked.format)


def _encode(found: Recommendations | RecommendedSet, form: Literal["json", "tag"]) -> _Content:
    """JSON; or the best tag, of a set each role's, on a line of plain text."""
    if form == "json":
        return _Content(msgspec.json.encode(found, enc_hook=int), "application/json")
    best = found.recommendations if isinstance(found, RecommendedSet) else found.recommendations[:1]
    lines = "".join(f"{one.tag}\n" for one in best)
    return _Content(lines.encode(), "text/plain")


def _check_only_roles(body: RecommendBody) -> None:
    """Refuse fields of one use beside ``roles``."""
    for field in msgspec.structs.fields(RecommendRequest):
        value = getattr(body, field.name)
        if field.name != "explain" and value != field.default:
            raise InvalidRequest.field(
                field.name, value, "stands in each role where there are roles"
            )
