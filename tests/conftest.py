from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

# Tests run in as many processes as there are cores: with several threads each they would mostly wait for each other. So
# would the programs that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="module")
def threads_are_given_back() -> Iterator[None]:
    """A module that takes another number of threads takes it for itself alone."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts() -> None:
    """A shell starts background jobs with Ctrl-C ignored, but tests that press it need Python's own handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
