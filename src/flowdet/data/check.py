"""Whether a data set can be used, what looks wrong in it, and what it looks like."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowdet.data.cocovid import CocoVID, cocovid_of, read_json
from flowdet.data.faults import Fault, faults_of
from flowdet.data.image_files import find_picture_faults, has_pictures
from flowdet.data.oddities import Oddity, find_oddities
from flowdet.data.summary import Summary, summarize
from flowdet.errors import DataError

__all__ = ["Report", "check"]


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found.

    Attributes:
        path: The file.
        faults: What keeps the file from being used.
        oddities: What looks wrong otherwise; empty if there are faults.
        pictures: The folder in which pictures were looked for; None if they were not.
        summary: What the data set looks like; None if there are faults.
    """

    path: Path
    faults: tuple[Fault, ...]
    oddities: tuple[Oddity, ...]
    pictures: Path | None
    summary: Summary | None

    def fault_counts(self) -> dict[str, int]:
        """How many faults there are of each kind, in the order in which the kinds were met."""
        return dict(Counter(fault.kind for fault in self.faults))

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "file": str(self.path),
            "faults": {"counts": self.fault_counts(), "sentences": [fault.sentence for fault in self.faults]},
            "warnings": [{"what": odd.what, "count": odd.count, "where": list(odd.where)} for odd in self.oddities],
            "pictures": None if self.pictures is None else str(self.pictures),
            "summary": None if self.summary is None else asdict(self.summary),
        }


def check(path: Path, images: Path | None = None, *, progress: Callable[[int], None] = lambda pictures: None) -> Report:
    """Looks through a CocoVID or COCO file and, where they are, its pictures.

    Args:
        path: The file.
        images: Folder of the pictures; if not given, that of the file, provided that pictures are there.
        progress: Told how many pictures were looked at.

    Raises:
        DataError: The file cannot be read, is not JSON, or there is no such folder.
    """
    if images and not images.is_dir():
        raise DataError(f"there is no folder {images} to look for pictures in")
    document = read_json(path)
    faults = tuple(faults_of(document))
    if faults:
        return Report(path, faults, (), None, None)
    data = cocovid_of(path, document)
    folder = images or (path.parent if has_pictures(data, path.parent) else None)
    oddities = list(find_oddities(data))
    if folder:
        oddities += _picture_oddities(data, folder, progress)
    return Report(path, (), tuple(oddities), folder, summarize(data))


def _picture_oddities(data: CocoVID, folder: Path, progress: Callable[[int], None]) -> list[Oddity]:
    found = defaultdict(list)
    for kind, sentence in find_picture_faults(data, folder, progress):
        found[kind].append(sentence)
    return [Oddity(f"{len(where)} x {kind}", len(where), where) for kind, where in found.items()]
