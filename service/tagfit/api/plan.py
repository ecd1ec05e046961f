"""``/plan``: the least hardware for a model."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency

from tagfit.advice.plan import Plan, PlanRequest, plan
from tagfit.api.decoding import read_body, read_query
from tagfit.api.schema import describes
from tagfit.catalog.library import Catalog


@get(
    "/plan",
    operation_id="getPlan",
    tags=["advice"],
    opt=describes(Plan, takes=PlanRequest, problems="400 404"),
)
async def get_plan(request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]) -> Plan:
    """The least hardware for a model at a context and speed, asked by query parameters."""
    query = read_query(request.query_params.multi_items(), PlanRequest)
    return await asyncio.to_thread(plan, catalog, query)


@post(
    "/plan",
    operation_id="postPlan",
    tags=["advice"],
    status_code=200,
    opt=describes(Plan, takes=PlanRequest, problems="400 404 413 415"),
)
async def post_plan(request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]) -> Plan:
    """The least hardware for a model at a context and speed, asked by a JSON body."""
    body = await read_body(request, PlanRequest)
    return await asyncio.to_thread(plan, catalog, body)
