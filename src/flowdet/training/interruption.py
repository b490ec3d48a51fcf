"""Defers SIGINT, SIGTERM and SIGHUP to the end of the step."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interruption"]

_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])


class Interruption:
    """Within its context these signals are noted, not obeyed; a second Ctrl-C is obeyed at once.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Outside the main thread signals cannot be
    handled, and nothing is deferred.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def __enter__(self) -> Self:
        """Begins to defer."""
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restores the handlers, and obeys a signal that came after the last step was done."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._noted:
            self.obey(self._noted == signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._noted == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._noted = number

    @property
    def signals(self) -> tuple[bool, bool]:
        """Whether SIGINT came, and whether another signal did."""
        return self._noted == signal.SIGINT, self._noted not in {None, signal.SIGINT}

    def obey(self, interrupt: bool) -> None:
        """Ends this process as the signal asks, which may have come to another process of the training.

        Raises:
            KeyboardInterrupt: For SIGINT.
            SystemExit: For SIGTERM with exit code 143, for SIGHUP with 129.
        """
        if interrupt:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self._noted or signal.SIGTERM))
