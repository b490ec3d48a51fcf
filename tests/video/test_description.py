import os
from pathlib import Path

import pytest

from flowdet.errors import ConfigError, VideoError
from flowdet.video.description import SourceDescription, describe_source


def test_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    for name in ("clip.mp4", "Movie [x264].mp4", "a:b?.mp4", ".hidden.mp4", "12", "Bär.tar.mp4"):
        Path(name).touch()
    Path("shots.v2").mkdir()
    expected = {
        "clip.mp4": "clip",
        "Movie [x264].mp4": "Movie [x264]",
        "a:b?.mp4": "a_b_",
        ".hidden.mp4": "hidden",
        "12": "12",
        "Bär.tar.mp4": "Bär.tar",
    }
    for text, name in expected.items():
        for source in (text, Path(text)):
            assert describe_source(source) == SourceDescription(f"'{text}'", text, name.strip("_"), here / text)
    assert describe_source("shots.v2") == SourceDescription(
        "the folder 'shots.v2'", "shots.v2", "shots.v2", here / "shots.v2"
    )
    assert describe_source(".") == SourceDescription("the folder '.'", ".", here.name, here)
    assert describe_source(Path("/")).name == "images"


def test_the_quotes_of_a_name_stay(tmp_path: Path) -> None:
    path = tmp_path / "'a' and 'b'"
    path.touch()
    assert describe_source(path).text == str(path)
    assert describe_source(path).label == f"'{path}'"


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = SourceDescription("the pattern 'shots/*.png'", "shots/*.png", "shots", pattern=True)
    assert describe_source("shots/*.png") == expected
    assert describe_source("*.png").name == tmp_path.name
    assert describe_source("*/a*.png").name == "images"


@pytest.mark.parametrize(
    ("address", "text", "name"),
    [
        ("http://user:secret@host:8123/clip.mp4?token=secret", "http://host:8123/clip.mp4", "host_8123_clip"),
        ("https://host/a/b/clip.v2.mp4#secret", "https://host/a/b/clip.v2.mp4", "host_clip.v2"),
        ("rtsp://user:s@cret@192.168.0.7", "rtsp://192.168.0.7", "192.168.0.7"),
        ("rtsp://host:554/live/", "rtsp://host:554/live/", "host_554_live"),
        ("rtsp://[::1]/live", "rtsp://[::1]/live", "1_live"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234", "239.0.0.1_1234"),
        ("rtmp://?key=secret", "rtmp://", "stream"),
    ],
)
def test_addresses_lose_their_secrets(address: str, text: str, name: str) -> None:
    assert describe_source(address) == SourceDescription(f"'{text}'", text, name)


def test_cameras() -> None:
    assert describe_source(3) == describe_source("3") == SourceDescription("camera 3", "camera 3", "camera3")
    with pytest.raises(ConfigError, match="numbered from 0"):
        describe_source(-1)


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs devices that are files")
def test_devices() -> None:
    assert describe_source("/dev/null") == SourceDescription("the camera '/dev/null'", "/dev/null", "null")


def test_what_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        str(tmp_path / "missing.mp4"): "does not exist",
        "~nosuch-user/x.mp4": "cannot be opened: .*home",
        "x" * 300 + ".mp4": "cannot be opened: File name too long",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        cases[str(tmp_path / "pipe")] = "neither a file nor a folder"
    for source, message in cases.items():
        with pytest.raises(VideoError, match=message):
            describe_source(source)

    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(VideoError, match=r"'locked/clip\.mp4' cannot be opened: Permission denied"):
        describe_source("locked/clip.mp4")
