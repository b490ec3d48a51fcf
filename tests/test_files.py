import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flowdet.errors import ConfigError, DataError
from flowdet.files import file_sha256, locked, natural_key, replacing, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as partial:
        raise KeyError(partial.write_text("half"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_os_error_inside_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(DataError, match=r"a\.txt cannot be written: No space left"), replacing(path, error=DataError):
        raise OSError(28, "No space left on device")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        write_text(tmp_path, "x")


def test_a_link_keeps_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write_text(pipe, "through")
        out, _ = reader.communicate(timeout=20)
    assert out == b"through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_a_killed_process_left_is_removed_but_not_what_another_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    orphan, other = tmp_path / ".a.txt.0.part", tmp_path / ".ab.txt.0.part"
    orphan.write_text("left")
    other.write_text("of another file")
    with replacing(path) as first:
        first.write_text("1")
        with replacing(path) as second:
            second.write_text("2")
            assert first.exists()
    assert path.read_text() == "1"
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "out"
    code = "import sys, pathlib; from flowdet.files import locked\nwith locked(pathlib.Path(sys.argv[1]), 'busy'): pass"
    with locked(path, "busy"):
        held = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} is at work"),
            locked(path, "process {holder} is at work"),
        ):
            pass
    free = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "ConfigError: busy" in held.stderr
    assert free.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Holds a lock, with a child process that a kill leaves behind, until it is told to end.
_HOLDER = """
import os, sys, time
from pathlib import Path
from flowdet.files import locked
with locked(Path(sys.argv[1]), "busy"):
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_a_kill_lifts_a_lock_although_a_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ConfigError, match=f"held by {holder.pid}"), locked(path, "held by {holder}"):
                pass
            holder.kill()
            holder.wait()
            with locked(path, "held by {holder}"):
                assert (tmp_path / ".run.lock").read_text() == f"{os.getpid()}\n"
        finally:
            os.kill(child, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_names_are_sorted_as_people_count() -> None:
    names = ["b2", "10", "a10.jpg", "A2.jpg", "2", "a2b3", "a2b12", "\u0662", "\u0661\u0660"]
    assert sorted(names, key=natural_key) == [
        "2",
        "\u0662",
        "10",
        "\u0661\u0660",
        "A2.jpg",
        "a2b3",
        "a2b12",
        "a10.jpg",
        "b2",
    ]
