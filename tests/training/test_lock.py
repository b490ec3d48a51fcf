import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowdet.errors import ConfigError
from flowdet.training.lock import LOCK_NAME, lock_folder

# Holds the lock, with a child process that a kill leaves behind, until it is told to end.
HOLDER = """
import os, sys, time
from pathlib import Path
from flowdet.training.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_a_folder_takes_one_run_at_a_time_and_a_kill_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        try:
            told = rf"process {holder.pid} is training in .*run: wait"
            with pytest.raises(ConfigError, match=told), lock_folder(folder):
                pass
            holder.kill()
            holder.wait()
            with lock_folder(folder):
                assert (folder / LOCK_NAME).read_text() == f"{os.getpid()}\n"
        finally:
            os.kill(child, signal.SIGKILL)
    assert not (folder / LOCK_NAME).exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"the folder .*file.* of the run cannot be used"), lock_folder(folder):
            pass
