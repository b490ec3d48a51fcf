"""Packs the small evaluation fixture with its official figures into this folder.

python -m tests.golden.record_evaluation ../shared/evaluation/small
"""

import gzip
import json
import sys
from pathlib import Path

from tests.metrics.fixtures import GOLDEN

__all__: list[str] = []

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    names = ("cocovid", "detections", "motion_iou", "expected")
    document = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    packed = json.dumps(document, separators=(",", ":")).encode()
    GOLDEN.write_bytes(gzip.compress(packed, 9, mtime=0))
