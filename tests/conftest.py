from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts() -> None:
    """A shell starts background jobs with Ctrl-C ignored, but tests that press it need Python's own handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
