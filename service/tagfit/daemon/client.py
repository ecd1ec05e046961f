"""What tagfit asks of the program that holds the models: Ollama, or another in its place.

A client of such a daemon provides what ``Daemon`` lists:

* ``title``, ``base_url``   what people call it and where it is, for sentences
* ``version``, ``installed``, ``loaded``
* ``pull``                  begins a download and gives a ``PullStream``
* ``landed_bytes``          what of a layer lies on its disk, so that a cancelled pull is watched
* ``unfinished_bytes``      what of earlier pulls lies there, so that it is not asked for twice
* ``aclose``

A ``PullStream`` is iterated once, by one reader, which reads without pause. Its lines speak
Ollama's words, whatever the daemon's own protocol is, and come in this order:

1. ``pulling manifest``, once the daemon has taken the name
2. for each layer any number of lines with ``digest``, ``total_bytes`` and ``completed_bytes``; a
   daemon without layers gives one made-up digest
3. ``verifying sha256 digest`` and ``writing manifest``, where the daemon says so
4. ``success``, or a line with ``error`` and the ``problem`` that it stands for; then it ends

``PullLine.text`` is that line as JSON, as the daemon wrote it or as Ollama would have. What goes
wrong outside of the daemon's words (it does not answer, it dies, it sends nonsense) is raised, by
``pull`` and by the stream, as a Problem: DaemonUnreachable, DaemonTimeout or DaemonError. The
errors of the first lines decide the HTTP status, so the second line must come as soon as it is
known that the model exists. ``PullStream.aclose`` may be called at any time, also while a line is
awaited, and makes the daemon stop where its protocol can.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from tagfit.problems import Problem


class Progress(msgspec.Struct, frozen=True):
    """A line of a pull. What is zero is left out; the last line is ``success`` or an error."""

    status: str = ""
    digest: str = ""
    total_bytes: int = msgspec.field(name="total", default=0)
    completed_bytes: int = msgspec.field(name="completed", default=0)
    error: str = ""


class PullLine(msgspec.Struct, frozen=True):
    """A line of a pull as the daemon wrote it, and what it says."""

    text: bytes
    """Without the newline."""
    progress: Progress
    problem: Problem | None = None
    """What the error of the last line stands for."""


class InstalledModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the daemon has."""

    name: str
    digest: str = ""
    size_bytes: int
    modified_at: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory."""

    name: str
    size_bytes: int
    vram_bytes: int = 0
    context_length: int = 0


class PullStream(Protocol):
    """A download that has begun."""

    async def __anext__(self) -> PullLine:
        """The next line. Raises Problem, and StopAsyncIteration after the last."""
        ...

    async def aclose(self) -> None:
        """Make the daemon stop; nothing where the pull has ended."""
        ...


class Daemon(Protocol):
    """A client of one daemon. Every method raises Problem."""

    @property
    def title(self) -> str:
        """What people call it: ``Ollama``."""
        ...

    @property
    def base_url(self) -> str: ...

    async def version(self) -> str:
        """Empty where the daemon tells none."""
        ...

    async def installed(self) -> tuple[InstalledModel, ...]:
        """The models that it has."""
        ...

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory."""
        ...

    async def pull(self, model: str, *, insecure: bool = False) -> PullStream:
        """Begin a pull; the caller closes it."""
        ...

    async def landed_bytes(self, digest: str) -> int | None:
        """Bytes of a layer on the daemon's disk; None where they are not to be seen from here."""
        ...

    async def unfinished_bytes(self) -> int:
        """Bytes of unfinished downloads on its disk, which a pull takes up; 0 if not to be seen."""
        ...

    async def aclose(self) -> None:
        """Close every connection, those of running pulls too."""
        ...
