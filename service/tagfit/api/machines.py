"""Which machine a request is about: the posted one, or the one that the service runs on."""

from __future__ import annotations

import re

from msgspec.structs import replace

from tagfit.advice.machine import Machine, PostedHardware, read_machine
from tagfit.api.hardware import answer_probed, as_posted
from tagfit.api.requests import HardwareParameters, posted_hardware
from tagfit.hardware.probe import Prober
from tagfit.problems import InvalidRequest

_PARAMETERS = {"name": "gpu", "memory": "vram"}
"""Query parameters by the field of a GPU that they fill."""


async def machine_of(posted: PostedHardware | None, prober: Prober) -> Machine:
    """The posted machine, or this one as GET /hardware answers it. Raises InvalidRequest."""
    if posted is None:
        posted = as_posted(answer_probed(await prober.probe()))
    return read_machine(posted)


async def machine_of_query(query: HardwareParameters, prober: Prober) -> Machine:
    """The machine of flat parameters, or this one, probed. Raises InvalidRequest."""
    posted = posted_hardware(query)
    return await machine_of(None, prober) if posted is None else machine_of_parameters(posted)


def machine_of_parameters(posted: PostedHardware) -> Machine:
    """The machine of flat parameters. Raises InvalidRequest, which names the parameter."""
    try:
        return read_machine(posted)
    except InvalidRequest as error:
        raise InvalidRequest(
            _in_parameters(error.detail),
            errors=tuple(replace(e, field=_in_parameters(e.field)) for e in error.errors),
            suggestions=error.suggestions,
        ) from error


def _in_parameters(text: str) -> str:
    text = re.sub(r"hardware\.gpus\[\d+\]\.(name|memory)", lambda m: _PARAMETERS[m[1]], text)
    return (
        text.replace("hardware.gpus", "gpu")
        .replace("hardware.memory", "ram")
        .replace("hardware.cpu", "cpu")
    )
