"""Ctrl-C and SIGTERM as a wish that the loop grants when a step is done."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its context the first Ctrl-C or SIGTERM is noted instead of obeyed; a second Ctrl-C is obeyed at once."""

    def __init__(self) -> None:
        self._noted: int | None = None
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}

    def __enter__(self) -> Self:
        """Begins to take note, which only the main thread can."""
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Puts the handlers back that were there, and obeys what came too late for anyone to ask."""
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
    def wishes(self) -> tuple[bool, bool]:
        """Whether Ctrl-C came, and whether SIGTERM did."""
        return self._noted == signal.SIGINT, self._noted == signal.SIGTERM

    @staticmethod
    def obey(interrupt: bool) -> None:
        """Ends the process as the signal asked for.

        Raises:
            KeyboardInterrupt: For Ctrl-C.
            SystemExit: For SIGTERM, with its exit code.
        """
        if interrupt:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)
