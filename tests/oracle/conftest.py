"""Ends the report with the table of memory errors, where they were checked."""

from __future__ import annotations

import pytest

from tests.oracle.memory_table import ERRORS, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ERRORS:
        terminalreporter.section("memory against llama.cpp, by architecture")
        terminalreporter.write_line(table(ERRORS))
