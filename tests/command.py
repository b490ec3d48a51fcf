"""The command line, called as a user calls it."""

import pytest

from flowdet.cli import main


def exit_code(*arguments: object) -> int:
    """Runs `flowdet` with these arguments; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0
