"""What importers write passes `flowdet data check`, whatever they read."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowdet.data.check import check
from flowdet.data.cvat import import_cvat
from flowdet.data.ilsvrc import convert_ilsvrc, find_lists
from flowdet.data.label_studio import import_label_studio
from flowdet.data.mot import import_mot
from flowdet.data.yolo import import_yolo
from flowdet.errors import DataError

STRANGE = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e308",
    "-1e308",
    "1e-308",
    "nan",
    "inf",
    "-inf",
    "x",
    "true",
    "\u0661",  # a digit of another script
    "2147483647",
    "2147483648",
    "-2147483648",
]
HUGE = ["9223372036854775807", "9223372036854775808", "9" * 400]
NUMBERS = st.one_of(
    st.sampled_from([*STRANGE, *HUGE, "", " 7 "]),
    st.integers(-300, 300).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 48)).save(path)


def passes(run: Any, out: Path) -> None:
    """Runs an importer, which either refuses everything or writes what can be used."""
    try:
        written = run()
    except DataError:
        assert not out.exists()
        return
    report = check(out)
    assert report.problems == ()
    assert report.summary is not None
    assert report.summary.objects == written.objects
    json.dumps(report.to_json(), allow_nan=False)


@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=10), max_size=4))
def test_mot(rows: list[list[str]]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for number in (1, 2):
            picture(root / "img1" / f"{number:06d}.jpg")
        (root / "gt").mkdir()
        good = "1,1,1,1,5,5,1,1,1"
        (root / "gt" / "gt.txt").write_text("\n".join([good, *(",".join(row) for row in rows)]))
        passes(lambda: import_mot(root, root / "o.json"), root / "o.json")


@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=7), max_size=4), st.lists(NAMES, min_size=1, max_size=3))
def test_yolo(lines: list[list[str]], names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        picture(root / "0.png")
        (root / "0.txt").write_text("\n".join(" ".join(line) for line in lines))
        passes(lambda: import_yolo(root, root / "o.json", names=names), root / "o.json")


@given(
    st.lists(st.tuples(NAMES, st.lists(NUMBERS, min_size=7, max_size=7)), min_size=1, max_size=3),
    st.booleans(),
    st.lists(NUMBERS, min_size=3, max_size=3),
)
def test_cvat(tracks: list[tuple[str, list[str]]], is_video: bool, sizes: list[str]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        boxes = [
            (
                label,
                track,
                f"<box label={quoteattr(label)} frame={quoteattr(frame)} outside='0' "
                f"xtl={quoteattr(x1)} ytl={quoteattr(y1)} xbr={quoteattr(x2)} ybr={quoteattr(y2)} "
                f"rotation={quoteattr(rotation)}/>",
            )
            for label, (track, frame, x1, y1, x2, y2, rotation) in tracks
        ]
        width, height, count = sizes
        size = f"<original_size><width>{width}</width><height>{height}</height></original_size>"
        meta = f"<meta><task><size>{count}</size>{size}</task></meta>"
        if is_video:
            inner = "".join(f"<track id={quoteattr(i)} label={quoteattr(c)}>{box}</track>" for c, i, box in boxes)
        else:
            shown = "".join(box for _, _, box in boxes)
            inner = f"<image id='0' name='a.png' width={quoteattr(width)} height={quoteattr(height)}>{shown}</image>"
        (root / "a.xml").write_text(f"<annotations>{meta}{inner}</annotations>", encoding="utf-8")
        passes(lambda: import_cvat([root / "a.xml"], root / "o.json"), root / "o.json")


VALUES = st.one_of(NUMBERS.map(lambda text: text.strip()), st.none(), st.booleans(), st.floats(), st.integers(-9, 300))


@given(
    st.lists(st.tuples(NAMES, st.lists(VALUES, min_size=7, max_size=7)), min_size=1, max_size=3),
    st.lists(VALUES, min_size=6, max_size=6),
    NAMES,
)
def test_label_studio(keys: list[tuple[str, list[Any]]], info: list[Any], name: str) -> None:
    fields = ("frame", "enabled", "rotation", "x", "y", "width", "height")
    good = dict(zip(fields, (1, False, 0, 10, 10, 20, 20), strict=True))
    results = [
        {"type": "videorectangle", "value": {"framesCount": 3, "labels": [label], "sequence": [good, key]}}
        for label, values in keys
        for key in [dict(zip(fields, values, strict=True))]
    ]
    video = dict(zip(("width", "height", "first_frame", "frames", "step", "fps"), info, strict=True))
    task = {"data": {"video": name, "flowdet": {"name": name, **video}}, "annotations": [{"result": results}]}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        picture(root / "f" / "0.png")
        (root / "a.json").write_text(json.dumps([task]))
        passes(lambda: import_label_studio([root / "a.json"], root / "o.json", frames="f/%d.png"), root / "o.json")


@given(st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, min_size=2, max_size=2), NUMBERS)
def test_ilsvrc(sides: list[str], size: list[str], track: str) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        box = "".join(
            f"<{side}>{text}</{side}>" for side, text in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
        )
        found = f"<object><trackid>{track}</trackid><name>n02084071</name><bndbox>{box}</bndbox></object>"
        xml = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{found}</annotation>"
        (root / "Annotations" / "VID" / "v").mkdir(parents=True)
        (root / "Annotations" / "VID" / "v" / "000000.xml").write_text(xml)
        (root / "Lists").mkdir()
        (root / "Lists" / "VID_val_videos.txt").write_text("v 1 0 1\n")
        out = root / "o" / "imagenet_vid_val.json"
        passes(lambda: convert_ilsvrc(find_lists(root)[0], root / "o"), out)


def test_a_class_that_cannot_be_printed_is_refused(tmp_path: Path) -> None:
    box = '<box frame="0" xtl="1" ytl="1" xbr="2" ybr="2"/>'
    task = "<task><original_size><width>9</width><height>9</height></original_size></task>"
    track = f'<track id="0" label="c\x9b2Jr">{box}</track>'
    (tmp_path / "a.xml").write_text(f"<annotations><meta>{task}</meta>{track}</annotations>", encoding="utf-8")
    with pytest.raises(DataError, match="a character that cannot be printed"):
        import_cvat([tmp_path / "a.xml"], tmp_path / "o.json")
