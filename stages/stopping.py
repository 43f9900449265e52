"""Ctrl-C and SIGTERM: the work unwinds, worker processes end, and one line says what is kept and how to go on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(SystemExit):
    """The user, or the system, ended the command. No KeyboardInterrupt: libraries swallow that one, without a word.

    Attributes:
        code: 128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
        kept: what is there already, where the work said so.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.kept = ""

    @property
    def line(self) -> str:
        """What the user reads."""
        why = "interrupted" if self.number == signal.SIGINT else f"ended by {signal.Signals(self.number).name}"
        kept = self.kept or "nothing half-written is left, and what was there before still is"
        return f"{why}: {kept}; run the same command again to go on"


_under_way: list[Stopped] = []


@contextmanager
def as_stopped() -> Iterator[None]:
    """For libraries that make an exit of their own, or none, of `Stopped`: it comes out of the block as it was."""
    try:
        yield
    except SystemExit as error:
        if _under_way and error is not _under_way[-1]:
            raise _under_way[-1] from error
        raise


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Say what of the block's work is kept when it is interrupted: `512 of 1,000 images of euro are kept`."""
    try:
        yield
    except Stopped as stop:
        stop.kept = stop.kept or kept()
        raise


def stop_on_signals() -> None:
    """Raise `Stopped` in the main thread at Ctrl-C, SIGTERM and SIGHUP; a second signal ends the process at once.

    What the caller was started to ignore (`nohup`, a script's background job) stays ignored. Processes forked from here
    leave Ctrl-C, which a terminal sends to all, to this one, and die of the others.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, _stop)
    before = threading.local()

    def hold_back() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, caught)

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def in_child() -> None:
        for number in caught:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        let_through()

    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=in_child)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL)
    _under_way.append(Stopped(number))
    raise _under_way[-1]


def leave_at_once(stop: Stopped) -> NoReturn:
    """End the process with its worker processes, all work having unwound.

    What vLLM and torch do when Python ends would take some ten seconds more, and keeps nothing.
    """
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.terminate()
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(128 + stop.number)
