"""The page in a real browser, and what is in its file."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from flowdet.errors import ConfigError, VideoError
from flowdet.video.description import describe_source
from flowdet.video.writer import VideoWriter
from flowdet.viewer.clips import read_clips
from flowdet.viewer.page import find_source, write_page
from tests.command import exit_code
from tests.viewer.results import write_result, write_truth

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><img src=x onerror=document.title='hit'>"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: "Browser") -> Iterator["Page"]:
    """A tab in which no error may happen and from which nothing may go to a network."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    yield page
    page.close()
    assert problems == []


def gray_clip(path: Path, count: int = 24) -> Path:
    """A video whose frame n has the brightness 10 n."""
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, (48, 64), 25.0) as writer:
        for index in range(count):
            writer.write(np.full((48, 64, 3), 10 * index, np.uint8), index / 25)
    return path


def until(tab: "Page", condition: str) -> None:
    """Waits in steps of its own: the page forbids the text that Playwright would evaluate."""
    for _ in range(200):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def late_clip(path: Path) -> Path:
    """The video of `gray_clip`, its first frame 12 frames after the file's zero, as beside sound that began earlier."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index + 12, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def open_page(tab: "Page", page: Path) -> None:
    tab.goto(page.as_uri())
    until(tab, "document.querySelector('#position').textContent !== ''")


def data_of(page: Path) -> Any:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1])


def brightness(tab: "Page") -> int:
    """Of the picture that is seen, at the upper right, where no box is."""
    return int(
        tab.evaluate(
            """async () => {
                const canvas = new OffscreenCanvas(8, 8), pen = canvas.getContext("2d");
                pen.drawImage(document.querySelector(".stage").firstElementChild, 0, 0, 8, 8);
                return pen.getImageData(7, 0, 1, 1).data[0];
            }"""
        )
    )


def at(tab: "Page", frame: int, count: int = 24) -> None:
    until(tab, f"document.querySelector('#position').textContent.endsWith('{frame + 1} of {count}')")


@pytest.mark.parametrize("make_clip", [gray_clip, late_clip])
def test_boxes_lie_on_the_frame_that_they_were_found_in(
    make_clip: Callable[[Path], Path], tab: "Page", tmp_path: Path
) -> None:
    video = make_clip(tmp_path / "clip.mp4")
    result = write_result(tmp_path / "out" / "clip.json", frames=24, source=str(video))
    page = tmp_path / "page.html"
    # Embedded, because pixels of other files cannot be read back.
    assert write_page(page, read_clips([result]), [], "embed") == []
    open_page(tab, page)
    at(tab, 0)
    for key, frame in [("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 23), ("Home", 0)]:
        tab.keyboard.press(key)
        at(tab, frame)
        assert brightness(tab) == pytest.approx(10 * frame, abs=4)
    for _ in range(7):  # faster than the video can follow
        tab.keyboard.press("ArrowRight")
    at(tab, 7)
    assert brightness(tab) == pytest.approx(70, abs=4)
    tab.keyboard.press(" ")
    at(tab, 23)
    assert brightness(tab) == pytest.approx(230, abs=4)


def test_a_page_links_to_the_video_where_it_is(tab: "Page", tmp_path: Path) -> None:
    video = gray_clip(tmp_path / "my clips" / "a #1 %.mp4")
    result = write_result(tmp_path / "out" / "a #1 %.json", frames=24, source=str(video))
    page = result.with_suffix(".html")
    write_page(page, read_clips([result]), [], "link")
    assert data_of(page)["clips"][0]["media"]["sources"] == ["../my%20clips/a%20%231%20%25.mp4"]
    open_page(tab, page)
    until(tab, "document.querySelector('video')?.readyState >= 2")


def test_no_name_becomes_part_of_the_page(tab: "Page", tmp_path: Path) -> None:
    result = write_result(tmp_path / "clip.json", class_name=HOSTILE, system=HOSTILE, source="<b>&amp;</b>.mp4")
    clips = read_clips([result])
    page = tmp_path / "page.html"
    assert write_page(page, clips, [], "link") == ["clip"]
    assert HOSTILE not in page.read_text()
    open_page(tab, page)
    assert tab.title() == "clip · flowdet"
    assert tab.locator("img[onerror]").count() == 0
    assert tab.locator("#list .name").all_text_contents() == [HOSTILE]
    assert tab.locator("#layers .name").all_text_contents() == [HOSTILE]


def test_settings_that_json_does_not_know_are_text(tmp_path: Path) -> None:
    result = write_result(tmp_path / "clip.json")
    result.write_text(result.read_text().replace('"system": "single-lite"', '"system": "single-lite", "odd": [NaN]'))
    page = tmp_path / "page.html"
    write_page(page, read_clips([result]), [], "link")
    assert data_of(page)["clips"][0]["layers"][0]["settings"]["odd"] == "[nan]"


def test_without_its_video_the_page_asks_and_the_rest_works(tab: "Page", tmp_path: Path) -> None:
    result = write_result(tmp_path / "clip.json", frames=24)
    page = tmp_path / "page.html"
    write_page(page, read_clips([result]), [], "link")
    open_page(tab, page)
    tab.locator("#notice").wait_for()
    tab.keyboard.press("ArrowRight")
    at(tab, 1)
    tab.set_input_files("#chooser", gray_clip(tmp_path / "clip.mp4"))
    until(tab, "document.querySelector('video')?.readyState >= 2")
    tab.keyboard.press("End")
    at(tab, 23)
    assert brightness(tab) == pytest.approx(230, abs=4)
    assert not tab.locator("#notice").is_visible()


def test_pictures_layers_score_and_classes(tab: "Page", tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (60 * number,) * 3).save(tmp_path / "clip" / f"{number + 1}.png")
    source = str(tmp_path / "clip")
    paths = [write_result(tmp_path / name / "clip.json", source=source, system=name) for name in ("one", "two")]
    page = tmp_path / "page.html"
    assert write_page(page, read_clips(paths), [], "link") == []
    assert data_of(page)["clips"][0]["media"]["sources"] == [f"clip/{number}.png" for number in range(1, 5)]
    open_page(tab, page)
    tab.keyboard.press("ArrowRight")
    at(tab, 1, 4)
    count = tab.locator("#frame-count")
    assert count.text_content() == "2"
    tab.keyboard.press("2")
    assert count.text_content() == "1"
    tab.keyboard.press("2")
    tab.keyboard.press("s")
    assert tab.locator(".stage").count() == 2
    tab.keyboard.press("s")
    tab.locator("#score").fill("0.95")
    assert count.text_content() == "0"
    tab.locator("#score").fill("0.3")
    tab.locator("#classes input").uncheck()
    assert count.text_content() == "0"


def test_the_keyboard_and_a_screen_reader_reach_everything(tab: "Page", tmp_path: Path) -> None:
    result = write_result(tmp_path / "clip.json")
    page = tmp_path / "page.html"
    write_page(page, read_clips([result]), [], "link")
    tab.set_viewport_size({"width": 390, "height": 800})
    open_page(tab, page)
    slider = tab.get_by_role("slider", name="Timeline")
    slider.focus()
    tab.keyboard.press("ArrowRight")
    at(tab, 1, 4)
    assert slider.get_attribute("aria-valuetext") == "frame 2 of 4, 0.04 seconds"
    until(tab, "document.querySelector('#live').textContent === 'Frame 2: cat 0.90'")
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog", name="Keys").is_visible()
    tab.keyboard.press("Escape")
    for button in tab.locator("button").all():
        assert (button.get_attribute("aria-label") or button.text_content() or "").strip()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_large_result_stays_quick(tab: "Page", tmp_path: Path) -> None:
    result = write_result(tmp_path / "clip.json", frames=2000, per_frame=50)
    page = tmp_path / "page.html"
    write_page(page, read_clips([result]), [], "link")
    open_page(tab, page)
    seconds = tab.evaluate(
        """() => {
            const began = performance.now();
            for (let value = 20; value < 40; value++) { setScore(value / 100); drawTimeline(); }
            return (performance.now() - began) / 20000;
        }"""
    )
    assert seconds < 0.1  # 0.008 to 0.011 in three runs on two cores


def test_what_browsers_do_not_play_is_told_and_converted(tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    shutil.copy(gray_clip(tmp_path / "clip.mp4"), video)
    result = write_result(tmp_path / "out" / "clip.json", frames=24, source=str(video))
    page = result.with_suffix(".html")
    with pytest.raises(VideoError, match=r"browsers do not play h264 in a file \.avi; --media convert"):
        write_page(page, read_clips([result]), [], "link")
    write_page(page, read_clips([result]), [], "convert")
    assert data_of(page)["clips"][0]["media"]["sources"] == ["clip.h264.mp4"]
    assert (tmp_path / "out" / "clip.h264.mp4").stat().st_size > 0


def test_a_copy_never_replaces_another_file(tmp_path: Path) -> None:
    video = gray_clip(tmp_path / "in" / "clip.mp4")
    result = write_result(tmp_path / "out" / "clip.json", frames=24, source=str(video))
    page = result.with_suffix(".html")
    annotated = tmp_path / "out" / "clip.mp4"
    annotated.write_bytes(b"annotated")
    with pytest.raises(ConfigError, match="is another file"):
        write_page(page, read_clips([result]), [], "copy")
    annotated.unlink()
    write_page(page, read_clips([result]), [], "copy")
    assert annotated.read_bytes() == video.read_bytes()


def test_a_video_that_is_too_large_is_not_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.viewer.page.LARGEST_EMBEDDED", 100)
    video = gray_clip(tmp_path / "clip.mp4")
    result = write_result(tmp_path / "out" / "clip.json", frames=24, source=str(video))
    with pytest.raises(ConfigError, match="can be embedded"):
        write_page(tmp_path / "page.html", read_clips([result]), [], "embed")


def test_the_annotated_video_is_not_taken_for_the_source(tmp_path: Path) -> None:
    gray_clip(tmp_path / "clip.mp4")
    result = write_result(tmp_path / "clip.json", frames=24, source="elsewhere/clip.mp4", source_bytes=17)
    assert write_page(tmp_path / "page.html", read_clips([result]), [], "link") == ["clip"]


def test_a_source_is_found_by_what_its_result_says_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "'a' and 'b'"
    folder.mkdir()
    result = write_result(tmp_path / "out" / "clip.json", source=describe_source(folder).text)
    assert find_source(read_clips([result])[0], []) == folder


def test_the_command_writes_a_page_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write_result(tmp_path / "clip.json")
    assert exit_code("view", str(result)) == 0
    assert result.with_suffix(".html").exists()
    output = " ".join("".join(capsys.readouterr()).split())
    assert "4 detections in 4 frames" in output
    assert "the page asks for it; or name it with --source" in output


def test_the_command_shows_annotations_and_the_worst_frames(
    tab: "Page", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = gray_clip(tmp_path / "clip.mp4", 4)
    result = write_result(tmp_path / "out" / "clip.json", source=str(video))
    truth = write_truth(tmp_path / "truth.json")
    page = tmp_path / "page.html"
    assert exit_code("view", str(result), "--truth", str(truth), "--out", str(page)) == 0
    assert "4 detections in 4 frames" in " ".join(capsys.readouterr().out.split())
    (clip,) = data_of(page)["clips"]
    assert [layer["truth"] for layer in clip["layers"]] == [False, True]
    assert clip["layers"][1]["starts"] == [0, 1, 2, 3, 5]
    assert [(one["frame"], one["missed"], one["false"]) for one in clip["worst"]] == [(0, 1, 1), (3, 1, 0)]
    open_page(tab, page)
    assert "1 missed · 1 false" in tab.inner_text("body")
    for frame in (3, 0):
        tab.keyboard.press("n")
        at(tab, frame, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one result"),
        (["x.json", "--images", "there"], "name both"),
        (["x.json", "--score", "2"], "between 0 and 1"),
        (["x.json"], "x.json cannot be read"),
        (["x.csv"], "x.csv is a table: expected results as .json or .jsonl; name x.jsonl beside it"),
        (["x.parquet"], "x.parquet is a table: expected results as .json or .jsonl; detect again with --results json"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("view", *arguments) == 1
    assert message in " ".join(capsys.readouterr().err.split())
