"""The signals that interrupt a command: Ctrl-C, SIGTERM and SIGHUP, which all raise KeyboardInterrupt."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


def asking_signals() -> list[int]:
    """Signals that ask this process to end; not SIGHUP where it was started to survive it, as by nohup."""
    asks: list[int] = [signal.SIGINT, signal.SIGTERM]
    return asks if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*asks, signal.SIGHUP]


def install() -> None:
    """Makes them raise KeyboardInterrupt; for the main thread, at the start of a command.

    A shell starts what it puts in the background with SIGINT ignored, and its children inherit that; here and in them
    it works again.
    """
    for number in asking_signals():
        signal.signal(number, interrupt)


def interrupt(number: int, _frame: FrameType | None) -> None:
    """The handler."""
    note_hangup(number)
    raise KeyboardInterrupt


def note_hangup(number: int) -> None:
    """After SIGHUP, discards output to a terminal that is gone: to write there would fail and end the command."""
    if number != signal.SIGHUP:
        return
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    for stream, events in poll.poll(0):
        if events & (select.POLLHUP | select.POLLERR):
            discard = os.open(os.devnull, os.O_WRONLY)
            os.dup2(discard, stream)
            os.close(discard)


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Inside, the signals go to another handler; for the main thread."""
    before = {number: signal.signal(number, handler) for number in asking_signals()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def kept() -> Iterator[None]:
    """Puts the handlers back at the end, whatever happened inside to them; Ray, for one, sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            if old is not None:  # one that was not set by Python
                signal.signal(number, old)


@contextmanager
def hangups_held() -> Iterator[None]:
    """Inside, SIGHUP of this thread waits until the end, and processes that it starts never get one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_sigint() -> None:
    """Lets SIGINT work again in a process whose parents ignored it: Ray cancels tasks with it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
