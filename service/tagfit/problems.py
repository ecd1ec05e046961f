"""Errors as RFC 9457 problems: every error answer is made from one of these.

* Problem                       500   a defect
  x InvalidRequest              400   a field is wrong
  x ForbiddenOrigin             403   a web page elsewhere asks
  x ForbiddenRegistry           403   the name points the daemon at a host that is not allowed
  x NotFound                    404   no such path
    + UnknownModel              404   no such model or tag
    + NothingFits               404   ``format=tag`` and no tag serves
  x MethodNotAllowed            405
  x DoesNotFit                  409   the model does not fit the machine
  x CannotRun                   409   the model is made for another runtime
  x DaemonTooOld                412   the model needs a newer daemon
  x BodyTooLarge                413
  x UnsupportedMediaType        415   the body is not declared to be JSON
  x ForeignHost                 421   the Host header is not ours (DNS rebinding)
  x RegistryUnauthorized        401   the registry wants the daemon to sign in
  x RegistryForbids             403   the registry lets nobody have it
  x DaemonUnreachable           502   the daemon does not answer, or went away
  x DaemonError                 502   the daemon answered with an error
    + DaemonStorageError        502   the daemon cannot write where it keeps models
    + RegistryError             502   the registry failed the daemon
  x DaemonBusy                  503   the daemon is still stopping an earlier pull
  x ShuttingDown                503   tagfit stops
  x DaemonTimeout               504   the daemon did not answer in time
  x RegistryTimeout             504   the registry did not answer the daemon in time
  x Stalled                     504   a pull made no progress for a set time
  x DiskFull                    507   there is no room for the download
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

MEDIA_TYPE = "application/problem+json"


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field of a request."""

    field: str
    """Path in the body, such as ``hardware.gpus[0].memory``; empty for the body itself."""
    message: str
    value: Any = None
    allowed: Any = None


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    """The detail once more, where Ollama's clients look for it."""
    errors: tuple[FieldError, ...] = ()
    suggestions: tuple[str, ...] = ()
    """Names that would serve instead."""
    needed_bytes: int | None = None
    """What it takes, and with ``available_bytes`` what is there: of memory or of disk."""
    available_bytes: int | None = None
    estimate: dict[str, Any] | None = None
    """As ``/estimate`` answers, where a model does not fit."""


class Problem(Exception):  # noqa: N818 - it is the RFC's word
    """An error that the client is told about."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    headers: ClassVar[dict[str, str]] = {}
    """Of the answer, where its status demands some."""

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        suggestions: tuple[str, ...] = (),
        needed_bytes: int | None = None,
        available_bytes: int | None = None,
        estimate: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.suggestions = suggestions
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.estimate = estimate

    @property
    def type(self) -> str:
        """A stable URI of the kind of problem."""
        return "urn:tagfit:problem:" + self.title.lower().replace(" ", "-")

    def details(self) -> ProblemDetails:
        """The answer's body."""
        return ProblemDetails(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.detail,
            error=self.detail,
            errors=self.errors,
            suggestions=self.suggestions,
            needed_bytes=self.needed_bytes,
            available_bytes=self.available_bytes,
            estimate=self.estimate,
        )


class InvalidRequest(Problem):
    """A field of the request is wrong."""

    status = 400
    title = "Invalid request"

    @classmethod
    def field(
        cls,
        field: str,
        value: Any,
        message: str,
        *,
        allowed: Any = None,
        suggestions: tuple[str, ...] = (),
    ) -> InvalidRequest:
        """The problem of one field."""
        where = f"Field {field!r}" if field else "The body"
        error = FieldError(field=field, message=message, value=value, allowed=allowed)
        end = "" if message.endswith("?") else "."
        return cls(f"{where}: {message}{end}", errors=(error,), suggestions=suggestions)

    def within(self, part: str) -> InvalidRequest:
        """The same problem of a part of the request: ``roles[1]``."""
        detail = self.detail
        for error in self.errors:
            detail = detail.replace(f"Field {error.field!r}", f"Field '{part}.{error.field}'")
        errors = tuple(
            msgspec.structs.replace(error, field=f"{part}.{error.field}") for error in self.errors
        )
        return InvalidRequest(detail, errors=errors, suggestions=self.suggestions)


class ForbiddenOrigin(Problem):
    """A web page of an origin that is not allowed asks."""

    status = 403
    title = "Origin not allowed"


class ForbiddenRegistry(Problem):
    """The name would make the daemon call a host that is not allowed."""

    status = 403
    title = "Registry not allowed"


class NotFound(Problem):
    """There is no such path."""

    status = 404
    title = "Not found"


class UnknownModel(NotFound):
    """The model or tag does not exist."""

    title = "Unknown model"


class NothingFits(NotFound):
    """No tag serves on this machine, and the answer has no room to say so otherwise."""

    title = "Nothing fits"


class MethodNotAllowed(Problem):
    """The path does not take this method."""

    status = 405
    title = "Method not allowed"


class DoesNotFit(Problem):
    """The model does not fit the machine; ``"force": true`` pulls it all the same."""

    status = 409
    title = "Does not fit"


class CannotRun(Problem):
    """The model is made for another runtime than this machine's."""

    status = 409
    title = "Cannot run here"


class DaemonTooOld(Problem):
    """The model needs a newer daemon."""

    status = 412
    title = "Daemon too old"


class BodyTooLarge(Problem):
    """The body is larger than ``TAGFIT_MAX_BODY``."""

    status = 413
    title = "Body too large"


class UnsupportedMediaType(Problem):
    """The body is not declared to be JSON."""

    status = 415
    title = "Unsupported media type"


class ForeignHost(Problem):
    """The Host header is a name that is not ours, as in a DNS rebinding attack."""

    status = 421
    title = "Host not allowed"


class RegistryUnauthorized(Problem):
    """The registry wants the daemon to sign in."""

    status = 401
    title = "Registry wants a sign-in"
    headers: ClassVar[dict[str, str]] = {"www-authenticate": 'Ollama realm="registry"'}
    """RFC 9110 demands one; it is the daemon that must sign in (``ollama signin``)."""


class RegistryForbids(Problem):
    """The registry does not let the daemon have it."""

    status = 403
    title = "Registry forbids it"


class DaemonUnreachable(Problem):
    """The daemon does not answer, or went away."""

    status = 502
    title = "Daemon is not reachable"


class DaemonError(Problem):
    """The daemon answered with an error."""

    status = 502
    title = "Daemon reported an error"


class DaemonStorageError(DaemonError):
    """The daemon cannot write where it keeps models."""

    title = "Daemon cannot store"


class RegistryError(DaemonError):
    """The registry failed the daemon, or is out of its reach."""

    title = "Registry failed"


class DaemonBusy(Problem):
    """The daemon is still stopping an earlier pull."""

    status = 503
    title = "Daemon is busy"


class ShuttingDown(Problem):
    """The service stops."""

    status = 503
    title = "Shutting down"


class DaemonTimeout(Problem):
    """The daemon did not answer in time."""

    status = 504
    title = "Daemon timed out"


class RegistryTimeout(Problem):
    """The registry did not answer the daemon in time."""

    status = 504
    title = "Registry timed out"


class Stalled(Problem):
    """A pull made no progress for ``TAGFIT_STALL_TIMEOUT``."""

    status = 504
    title = "Pull stalled"


class DiskFull(Problem):
    """There is no room for the download."""

    status = 507
    title = "Not enough disk"
