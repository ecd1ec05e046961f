"""Bodies and query parameters -> request structs; errors name field, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

import msgspec
from litestar import Request
from msgspec import inspect

from tagfit.problems import InvalidRequest
from tagfit.units import decode_quantity

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


async def read_body(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """The JSON body as ``kind``; an empty body is an empty object. Raises InvalidRequest."""
    return read_json(await request.body(), kind)


def read_json(body: bytes, kind: type[T]) -> T:
    """A JSON body as ``kind``; an empty body is an empty object. Raises InvalidRequest."""
    try:
        value = msgspec.json.decode(body or b"{}")
    except msgspec.DecodeError as error:
        raise InvalidRequest.field("", None, f"not JSON: {error}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        message = "not JSON: it is not UTF-8 or nested too deeply"
        raise InvalidRequest.field("", None, message) from error
    return _convert(value, kind, strict=True)


def read_query(parameters: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """Flat query parameters as ``kind``, lists repeated or comma-separated.

    Raises InvalidRequest.
    """
    lists = {field.encode_name for field in _fields(kind) if _is_list(field.type)}
    values: dict[str, Any] = {}
    for name, text in parameters:
        if name in lists:
            parts = text.split(",")
            if "" in parts:
                _refuse(name, text, "a value is empty; leave it out", None)
            values.setdefault(name, []).extend(parts)
        elif name in values:
            _refuse(name, text, "given more than once", None)
        else:
            values[name] = text
    return _convert(values, kind, strict=False)


def _convert(value: Any, kind: type[T], *, strict: bool) -> T:
    try:
        return msgspec.convert(value, kind, strict=strict, dec_hook=decode_quantity)
    except msgspec.ValidationError as error:
        _explain(str(error), value, kind, error)


def _explain(message: str, value: Any, kind: type, cause: Exception) -> NoReturn:
    path = ""
    if match := _PATH.search(message):
        message, path = message[: match.start()], match["path"]
    if match := _UNKNOWN.search(message):
        known = [field.encode_name for field in _fields(_type_at(kind, path))]
        near = get_close_matches(match["name"], known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        _refuse(
            _join(path, match["name"]),
            _value_at(_value_at(value, path), match["name"]),
            f"there is no such field{hint}",
            known,
            cause,
        )
    if match := _MISSING.search(message):
        _refuse(_join(path, match["name"]), None, "the field is required", None, cause)
    allowed = _allowed(_type_at(kind, path))
    _refuse(path, _value_at(value, path), message[0].lower() + message[1:], allowed, cause)


def _refuse(
    field: str,
    value: Any,
    message: str,
    allowed: Sequence[Any] | None,
    cause: Exception | None = None,
) -> NoReturn:
    choices = f" (allowed: {', '.join(map(str, allowed))})" if allowed else ""
    raise InvalidRequest.field(field, value, message + choices, allowed=allowed) from cause


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _steps(path: str) -> list[str | int]:
    return [name or int(index) for name, index in _STEP.findall(path)]


def _value_at(value: Any, path: str) -> Any:
    for step in _steps(path):
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _type_at(kind: type, path: str) -> inspect.Type:
    found = inspect.type_info(kind)
    for step in _steps(path):
        found = _plain(found)
        if isinstance(found, inspect.StructType):
            found = next((f.type for f in found.fields if f.encode_name == step), found)
        elif isinstance(found, inspect.VarTupleType | inspect.ListType):
            found = found.item_type
    return _plain(found)


def _plain(kind: inspect.Type) -> inspect.Type:
    """Without description and without ``| None``."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        rest = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
        return _plain(rest[0]) if len(rest) == 1 else kind
    return kind


def _fields(kind: type | inspect.Type) -> tuple[inspect.Field, ...]:
    found = kind if isinstance(kind, inspect.Type) else inspect.type_info(kind)
    return found.fields if isinstance(found, inspect.StructType) else ()


def _is_list(kind: inspect.Type) -> bool:
    return isinstance(_plain(kind), inspect.VarTupleType | inspect.ListType)


def _allowed(kind: inspect.Type) -> Sequence[Any] | None:
    if isinstance(kind, inspect.LiteralType):
        return kind.values
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        bounds = [
            f"{sign} {bound}"
            for sign, bound in ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt))
            if bound is not None
        ]
        return bounds or None
    return None
