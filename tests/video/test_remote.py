import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowdet.cli.sources import expanded
from flowdet.errors import ConfigError, VideoError
from flowdet.video.reader import open_video
from flowdet.video.remote import is_remote
from tests.video.clips import make_clip, noise

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two clips and a text in fsspec's memory; returns the empty folder for copies. The clip is beside it, too."""
    clip = make_clip(tmp_path / "clip.mp4", noise(4))
    memory = fsspec.filesystem("memory")
    for name in ("a.mp4", "b.mp4"):
        memory.pipe(f"/bucket/{name}", clip.read_bytes())
    memory.pipe("/bucket/notes.txt", b"no video")
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    yield copies
    memory.rm("/bucket", recursive=True)


def test_a_video_of_a_store_is_that_video(store: Path, tmp_path: Path) -> None:
    with open_video("memory://bucket/a.mp4") as remote, open_video(tmp_path / "clip.mp4") as local:
        assert remote.name == "bucket_a"
        assert not remote.is_live
        for _ in range(2):
            pairs = list(zip(remote, local, strict=True))
            assert len(pairs) == 4
            assert all(np.array_equal(one.image, other.image) for one, other in pairs)
        assert len(remote.preview(3)) == 3
        assert len(list(store.iterdir())) == 1
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/missing.mp4", "'memory://bucket/missing.mp4' cannot be copied: FileNotFoundError"),
        ("memory://bucket/notes.txt", "'memory://bucket/notes.txt' cannot be opened|holds no pictures"),
        ("nowhere://bucket/a.mp4", "'nowhere://bucket/a.mp4' cannot be reached: Protocol not known: nowhere"),
        ("memory://bucket/*.mkv", r"'memory://bucket/\*.mkv' cannot be copied: FileNotFoundError"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(address: str, message: str, store: Path) -> None:
    with pytest.raises(VideoError, match=message):
        open_video(address)
    assert list(store.iterdir()) == []


@pytest.mark.usefixtures("store")
def test_patterns_are_listed_there() -> None:
    assert list(expanded(["memory://bucket/*.mp4"])) == ["memory://bucket/a.mp4", "memory://bucket/b.mp4"]
    for same in (["memory://bucket/b.mp4", "memory://x/*.mp4"], ["nowhere://bucket/*.mp4"]):
        assert list(expanded(same)) == same


def test_what_ffmpeg_reads_is_left_to_it() -> None:
    assert not any(map(is_remote, ("clip.mp4", "rtsp://camera/1", "HTTP://host/a.mp4", "7")))
    assert all(map(is_remote, ("s3://bucket/a.mp4", "gs://b/c", "memory://a")))


def test_without_fsspec_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"pip install fsspec"):
        open_video("s3://bucket/a.mp4")
