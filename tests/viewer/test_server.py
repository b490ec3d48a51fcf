import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from flowdet.errors import VideoError
from flowdet.systems.load import load_system
from flowdet.systems.options import SystemOptions
from flowdet.viewer.jobs import Job, Jobs, detecting
from flowdet.viewer.server import is_own_name, make_app
from flowdet.work.annotate import Shown
from tests.command import exit_code
from tests.viewer.test_page import data_of, gray_clip

OWN = "http://127.0.0.1:8000"
AS_CLIP = {"content-type": "application/octet-stream"}
MP4 = b"\0\0\0\x18ftypmp42" + bytes(100)


class Gate:
    """Work that waits until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, job: Job, progress: Callable[[int], None]) -> None:
        self.begun.set()
        assert self.may_end.wait(20)
        progress(1)
        job.page.write_text("the page")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def jobs(gate: Gate, tmp_path: Path) -> Iterator[Jobs]:
    (tmp_path / "jobs").mkdir()
    made = Jobs(tmp_path / "jobs", gate, most=2)
    yield made
    gate.may_end.set()
    made.close()


@pytest.fixture
def client(jobs: Jobs) -> TestClient:
    return TestClient(make_app(jobs, host="127.0.0.1", largest_upload=1000), base_url=OWN)


def wait(client: TestClient, number: str) -> dict[str, object]:
    for _ in range(1200):
        found: dict[str, object] = client.get(f"/jobs/{number}").json()
        if found["state"] in ("done", "failed"):
            return found
        threading.Event().wait(0.05)
    pytest.fail("the job does not end")


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_foreign_pages_and_foreign_names_are_refused(method: str, client: TestClient, tmp_path: Path) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example:8000"}, {"host": ""}):
        for path in ("/", "/jobs", "/jobs/0", "/clips/0"):
            assert client.request(method, path, headers=AS_CLIP | headers, content=MP4).status_code == 403
    assert left(tmp_path) == []
    assert client.get("/", headers={"origin": OWN}).status_code == 200


@pytest.mark.parametrize(
    ("name", "host", "is_own"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("::1", "127.0.0.1", True),
        ("evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("192.168.1.5", "127.0.0.1", False),
        ("192.168.1.5", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("", "0.0.0.0", False),
    ],
)
def test_which_names_are_own(name: str, host: str, is_own: bool) -> None:
    assert is_own_name(name, host) is is_own


def test_a_form_of_another_site_cannot_upload(client: TestClient, tmp_path: Path) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert client.post("/jobs", headers={"content-type": kind}, content=MP4).status_code == 415
    assert left(tmp_path) == []


def test_uploads_are_limited_whether_they_say_their_size_or_not(client: TestClient, tmp_path: Path) -> None:
    large = MP4 + bytes(2000)
    assert client.post("/jobs", headers=AS_CLIP, content=large).status_code == 413
    in_pieces = client.post("/jobs", headers=AS_CLIP, content=iter([large[:600], large[600:]]))
    assert "content-length" not in in_pieces.request.headers
    assert in_pieces.status_code == 413
    assert left(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nfile:///etc/passwd", b"<svg>", b"ffconcat version 1.0\n"])
def test_what_is_no_video_is_refused(content: bytes, client: TestClient, tmp_path: Path) -> None:
    answer = client.post("/jobs", headers=AS_CLIP, content=content)
    assert answer.status_code == 415
    assert "no video" in answer.json()["message"]
    assert left(tmp_path) == []


def test_the_queue_has_an_end(client: TestClient, gate: Gate, tmp_path: Path) -> None:
    first = client.post("/jobs", headers=AS_CLIP, content=MP4).json()["id"]
    assert gate.begun.wait(10)
    ids = [client.post("/jobs", headers=AS_CLIP, content=MP4).json()["id"] for _ in range(2)]
    assert client.post("/jobs", headers=AS_CLIP, content=MP4).status_code == 429
    assert client.get(f"/jobs/{ids[0]}").json()["state"] == "waiting"
    assert client.get(f"/jobs/{ids[0]}/page").status_code == 404
    assert client.delete(f"/jobs/{ids[0]}").status_code == 204
    assert client.get(f"/jobs/{ids[0]}").status_code == 404
    assert not (tmp_path / "jobs" / ids[0]).exists()
    assert client.post("/jobs", headers=AS_CLIP, content=MP4).status_code == 201
    gate.may_end.set()
    assert wait(client, first)["state"] == "done"
    assert client.get(f"/jobs/{first}/page").text == "the page"


def test_a_job_that_runs_is_cancelled(client: TestClient, jobs: Jobs, gate: Gate, tmp_path: Path) -> None:
    number = client.post("/jobs", headers=AS_CLIP, content=MP4).json()["id"]
    assert gate.begun.wait(10)
    client.delete(f"/jobs/{number}")
    gate.may_end.set()
    jobs.close()
    assert left(tmp_path) == []


def test_only_the_last_jobs_are_kept(client: TestClient, gate: Gate, tmp_path: Path) -> None:
    gate.may_end.set()
    for _ in range(11):
        wait(client, client.post("/jobs", headers=AS_CLIP, content=MP4).json()["id"])
    assert len(left(tmp_path)) == 9


@pytest.mark.parametrize("number", ["..%2f..%2fetc", "%2e%2e", "0" * 32])
def test_no_id_leads_out_of_the_folder(number: str, client: TestClient) -> None:
    for path in ("", "/page", "/video"):
        assert client.get(f"/jobs/{number}{path}").status_code == 404


def test_a_failure_is_told_without_places_of_the_machine(tmp_path: Path) -> None:
    def work(job: Job, progress: Callable[[int], None]) -> None:
        raise VideoError(f"'{job.source}' cannot be opened: {job.name} is damaged")

    (tmp_path / "jobs").mkdir()
    jobs = Jobs(tmp_path / "jobs", work, most=1)
    client = TestClient(make_app(jobs, host="127.0.0.1"), base_url=OWN)
    found = wait(client, client.post("/jobs", headers=AS_CLIP, content=MP4).json()["id"])
    assert found["message"] == "'clip' cannot be opened: clip is damaged"
    jobs.close()


def test_every_answer_has_its_headers(client: TestClient) -> None:
    for path in ("/", "/nothing", "/jobs/0"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_a_clip_is_uploaded_and_becomes_a_page(tmp_path: Path) -> None:
    detector = load_system(SystemOptions(system="single-lite"))
    (tmp_path / "jobs").mkdir()
    clip = gray_clip(tmp_path / "in" / "<b>.mp4", 3)
    jobs = Jobs(tmp_path / "jobs", detecting(detector, Shown(score=0.05)), most=2)
    client = TestClient(make_app(jobs, host="127.0.0.1", clips=[clip]), base_url=OWN)
    assert "<b>.mp4" not in client.get("/").text
    uploaded = client.post("/jobs", headers=AS_CLIP, content=clip.read_bytes()).json()["id"]
    chosen = client.post("/clips/0").json()["id"]
    assert client.post("/clips/1").status_code == 404
    for number in (uploaded, chosen):
        assert wait(client, number) == {"state": "done", "done": 3, "total": 3, "message": ""}
        page = tmp_path / f"{number}.html"
        page.write_text(client.get(f"/jobs/{number}/page").text)
        (shown,) = data_of(page)["clips"]
        assert shown["times"] == [0, 0.04, 0.08]
        assert shown["media"]["sources"] == ["video"]
        assert str(tmp_path) not in page.read_text()
        part = client.get(f"/jobs/{number}/video", headers={"range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
    jobs.close()
    assert clip.exists()
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "evil.example"], "--host is localhost or an address"),
        (["--port", "0"], "a port is a number"),
        (["--queue", "0"], "from 1 on"),
        (["--clips", "nowhere"], "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("serve", *arguments) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("flowdet.cli.serve.find_spec", lambda name: None)
    assert exit_code("serve") == 1
    assert "pip install 'flowdet[web]'" in " ".join(capsys.readouterr().err.split())
