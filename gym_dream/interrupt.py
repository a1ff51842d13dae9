"""Ctrl-C as a question asked between steps, so that it never splits a step or a file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def polite_interrupt() -> Iterator[Callable[[], bool]]:
    """Take the first Ctrl-C as a request to finish; the second one interrupts as usual."""
    asked = False
    if threading.current_thread() is not threading.main_thread():  # which is where Python delivers signals
        yield lambda: asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
