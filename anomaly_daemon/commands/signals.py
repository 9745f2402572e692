"""What the service is told by signal: SIGTERM and SIGINT to leave, SIGHUP to read the settings again."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.loop import Loop

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ToldToLeave(BaseException):
    """Raised wherever the start is, so that neither an import nor a wait holds the leaving up."""


def hold() -> None:
    """Keep signals waiting until `Signals` listen: importing the verb must not make one deadly."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


class Signals:
    """Around a verb's loop: notes signals, and once the loop stands passes them on to it, also while all is being closed.

    Told to leave before the loop stands, the verb's block ends there, quietly: nothing was done yet.
    """

    def __init__(self) -> None:
        self._is_leaving = self._is_reload_asked = False
        self._loop: Loop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        return self._is_leaving  # whatever the error: an import that is interrupted may make another one of it

    def listen(self) -> None:
        """From now on; first thing within the block, for a signal that was held back comes at once."""
        for number in _NUMBERS:
            signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)

    def heed(self) -> None:
        """Raise ToldToLeave where it was raised before and swallowed, as in a destructor."""
        if self._is_leaving:
            raise ToldToLeave

    def pass_to(self, loop: Loop) -> None:
        """The loop stands: what was noted reaches it, and all that comes."""
        self.heed()
        self._loop = loop
        if self._is_reload_asked:
            loop.ask_reload()

    def _take(self, number: int, *_: object) -> None:
        if number == signal.SIGHUP:
            self._is_reload_asked = True
            if self._loop is not None:
                self._loop.ask_reload()
        elif self._loop is not None:
            self._loop.stop()
        elif not self._is_leaving:  # once: a second one must not disturb the closing of what is open
            self._is_leaving = True
            raise ToldToLeave
