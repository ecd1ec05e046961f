"""Problems -> answers: the one place where an error becomes a status and a body."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from tagfit.problems import (
    MEDIA_TYPE,
    BodyTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
)

_log = structlog.get_logger("tagfit")


def encode_problem(problem: Problem) -> bytes:
    """The JSON body of a problem; integers too large for JSON are written as text."""
    return msgspec.json.encode(problem.details(), enc_hook=str)


def answer_problem(_: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """The answer of a problem that was raised."""
    return Response(
        encode_problem(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def answer_http_exception(
    request: Request[Any, Any, Any], exception: HTTPException
) -> Response[bytes]:
    """Litestar's own refusals as problems."""
    answer = answer_problem(request, _problem_of(request, exception))
    if exception.headers:
        answer.headers.update(exception.headers)
    return answer


def answer_defect(request: Request[Any, Any, Any], exception: Exception) -> Response[bytes]:
    """A defect: logged with its trace, answered without it."""
    _log.error("defect", path=request.url.path, exc_info=exception)
    return answer_problem(
        request, Problem("Something went wrong inside; the log has it under the request id.")
    )


def _problem_of(request: Request[Any, Any, Any], exception: HTTPException) -> Problem:
    path = request.url.path
    match exception.status_code:
        case 404:
            return NotFound(f"There is no {path!r} here; /schema lists what there is.")
        case 405:
            return MethodNotAllowed(
                f"{path!r} does not take {request.method}; /schema lists what it takes."
            )
        case 413:
            return BodyTooLarge("The body is larger than any request needs (TAGFIT_MAX_BODY).")
        case status if 400 <= status < 500:
            return InvalidRequest(exception.detail)
    return Problem(exception.detail)
