"""The OpenAPI document: Litestar's paths, with requests and answers from msgspec's own schemas.

Handlers read their requests themselves (``decoding``), so that an error can name field, value
and what is allowed; ``describes`` says at the handler what Litestar then cannot see.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from http import HTTPStatus
from types import UnionType
from typing import Any, get_args

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute

from tagfit.problems import MEDIA_TYPE, ProblemDetails
from tagfit.units import SMALLEST_BARE_BYTES, Bytes, BytesPerSecond, Tokens

REFERENCE = "#/components/schemas/{name}"
JSON = "application/json"


def describes(
    answers: Any,
    *,
    takes: Any = None,
    also: Mapping[str, Any] | None = None,
    problems: str = "",
    problems_as: str = MEDIA_TYPE,
) -> dict[str, Any]:
    """A handler's ``opt``.

    ``answers`` and ``takes`` are the types of the JSON answer and of the body or the query
    parameters, ``also`` those of other media types; ``problems`` lists statuses: ``400 404``,
    ``problems_as`` is their media type.
    """
    return {
        "takes": takes,
        "answers": {JSON: answers, **(also or {})},
        "problems": [int(status) for status in problems.split()],
        "problems_as": problems_as,
    }


class SchemaPlugin(JsonRenderPlugin):
    """Serves the document at ``/schema`` and ``/schema/openapi.json``."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"])
        self._document: bytes | None = None

    def render(self, request: Any, openapi_schema: dict[str, Any]) -> bytes:
        """The document, made at the first request."""
        if self._document is None:
            self._document = encode_document(request.app, openapi_schema)
        return self._document


def encode_document(app: Litestar, litestars: dict[str, Any] | None = None) -> bytes:
    """The OpenAPI 3.1 document of an application, as it is served and committed."""
    content = msgspec.json.decode(msgspec.json.encode(litestars or app.openapi_schema.to_schema()))
    handlers = _handlers(app)
    kinds: list[Any] = [ProblemDetails]
    for described in handlers.values():
        kinds.append(described.opt["takes"])
        for answer in described.opt["answers"].values():
            kinds += _alternatives(answer)
    schemas, components = msgspec.json.schema_components(
        [kind for kind in kinds if kind is not None],
        schema_hook=_quantity_schema,
        ref_template=REFERENCE,
    )
    by_kind = dict(zip([k for k in kinds if k is not None], schemas, strict=True))
    for path in content["paths"].values():
        for method, operation in path.items():
            _complete(operation, method, handlers[operation["operationId"]], by_kind, components)
    content["components"] = {
        "schemas": {
            name: schema
            for name, schema in sorted(components.items())
            if not name.endswith("Query")
        }
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _handlers(app: Litestar) -> dict[str, HTTPRouteHandler]:
    return {
        str(handler.operation_id): handler
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "answers" in handler.opt
    }


def _complete(
    operation: dict[str, Any],
    method: str,
    handler: HTTPRouteHandler,
    schemas: Mapping[Any, Any],
    components: Mapping[str, Any],
) -> None:
    summary, _, rest = inspect.cleandoc(handler.fn.__doc__ or "").partition("\n")
    operation["summary"] = summary.rstrip(".")
    if rest.strip():
        operation["description"] = rest.strip()
    operation.pop("deprecated", None)
    takes = handler.opt["takes"]
    if takes is not None and method == "get":
        operation.setdefault("parameters", []).extend(_parameters(components[takes.__name__]))
    elif takes is not None:
        content = {JSON: {"schema": schemas[takes]}}
        required = bool(components[takes.__name__].get("required"))
        operation["requestBody"] = {"required": required, "content": content}
    answers = {
        media: {"schema": _any_of([schemas[kind] for kind in _alternatives(answer)])}
        for media, answer in handler.opt["answers"].items()
    }
    operation["responses"] = {"200": {"description": summary, "content": answers}}
    for status in handler.opt["problems"]:
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {handler.opt["problems_as"]: {"schema": schemas[ProblemDetails]}},
        }


def _alternatives(answer: Any) -> tuple[Any, ...]:
    """The structs of a union, which msgspec would want to have tags."""
    return get_args(answer) if isinstance(answer, UnionType) else (answer,)


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _parameters(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = fields.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": schema,
        }
        for name, schema in fields["properties"].items()
    ]


def _quantity_schema(kind: type) -> dict[str, Any]:
    """What ``units`` reads for one of its types."""
    if kind is Tokens:
        numbers: list[dict[str, Any]] = [{"type": "integer", "minimum": 1}]
        text = r"^\s*\d+(\.\d+)?\s*([kKmM]i?)?\s*$"
    else:
        numbers = [{"type": "integer", "minimum": SMALLEST_BARE_BYTES}]
        per_second = "(/s)?" if kind is BytesPerSecond else ""
        if kind is Bytes:
            numbers.append({"const": 0})
        text = rf"^\s*\d+(\.\d+)?\s*(([kKmMgGtTpP]i?)?[bB]?){per_second}\s*$"
    return {"anyOf": [*numbers, {"type": "string", "pattern": text}]}
