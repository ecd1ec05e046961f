"""``/recommend``: the tags that serve a use best on a machine.

Computed in a thread: a first answer for a machine takes up to seconds, and probes must not wait.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency

from tagfit.advice.recommend import Recommendations, RecommendRequest, recommend
from tagfit.advice.roles import RecommendedSet, recommend_set
from tagfit.api.decoding import read_body, read_query
from tagfit.api.machines import machine_of, machine_of_query
from tagfit.api.requests import RecommendBody, RecommendQuery
from tagfit.api.schema import describes
from tagfit.catalog.library import Catalog
from tagfit.hardware.probe import Prober
from tagfit.problems import InvalidRequest, NothingFits


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
    machine = await machine_of_query(query, prober)
    return _answer(await asyncio.to_thread(recommend, catalog, query, machine), query.format)


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
    body = await read_body(request, RecommendBody)
    if body.roles:
        _check_only_roles(body)
    machine = await machine_of(body.hardware, prober)
    if not body.roles:
        return _answer(await asyncio.to_thread(recommend, catalog, body, machine), body.format)
    found = await asyncio.to_thread(
        recommend_set, catalog, body.roles, machine, explain=body.explain
    )
    return _answer_set(found, body.format)


def _check_only_roles(body: RecommendBody) -> None:
    """Refuse fields of one use beside ``roles``."""
    fields = msgspec.structs.fields(RecommendRequest)
    for field in fields:
        value = getattr(body, field.name)
        if field.name != "explain" and value != field.default:
            raise InvalidRequest.field(
                field.name, value, "stands in each role where there are roles"
            )


def _answer_set(found: RecommendedSet, form: Literal["json", "tag"]) -> Response[Any]:
    if form == "json":
        return Response(found)
    if not found.together.fits:
        raise NothingFits(found.together.reason)
    lines = "".join(f"{one.tag}\n" for one in found.recommendations)
    return Response(lines, media_type="text/plain")


def _answer(found: Recommendations, form: Literal["json", "tag"]) -> Response[Any]:
    if form == "json":
        return Response(found)
    if not found.recommendations:
        miss = f": {found.nearest_miss.reason}" if found.nearest_miss else ""
        raise NothingFits(f"No tag serves {found.use_case} here{miss}.")
    return Response(found.recommendations[0].tag + "\n", media_type="text/plain")
