"""Defers SIGINT and SIGTERM to the end of the step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its context SIGINT (Ctrl-C) and SIGTERM are noted, not obeyed; a second Ctrl-C is obeyed at once.

    Outside the main thread signals cannot be handled, and nothing is deferred.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}

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
        """Whether SIGINT came, and whether SIGTERM did."""
        return self._noted == signal.SIGINT, self._noted == signal.SIGTERM

    @staticmethod
    def obey(interrupt: bool) -> None:
        """Ends the process as the signal asks.

        Raises:
            KeyboardInterrupt: For SIGINT.
            SystemExit: For SIGTERM, with exit code 143.
        """
        if interrupt:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)
