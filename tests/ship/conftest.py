"""A container engine and the image in it, for those who ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ship.engine import Docker, base_image, docker
from tests.ship.programs import ROOT


@pytest.fixture(scope="session")
def engine() -> Iterator[Docker]:
    with docker() as found:
        yield found


@pytest.fixture(scope="session")
def base(engine: Docker) -> str:
    return base_image(engine)


@pytest.fixture(scope="session")
def image(engine: Docker, base: str) -> str:
    name = "tagfit:test"
    engine("build", "--network=host", f"--build-arg=BASE={base}", f"--tag={name}", ROOT)
    return name
