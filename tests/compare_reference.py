"""Compares every recorded tensor of every frame with the full reference, and writes the page about it.

python -m tests.compare_reference ../shared/reference docs/reference.md
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.comparison import CASES, TOLERANCES, Case, Differences, compare_case, read_full
from tests.seeded import seeded_system

__all__ = ["page"]

_MEANINGS = {
    "img": "network input",
    "neck": "features of the frame's own image",
    "flow_quarter": "flow as predicted, at an eighth of the image",
    "flow": "flow in image pixels",
    "warped": "warped features of the 31 slots",
    "agg_cos": "cosine similarities",
    "agg_weights": "aggregation weights",
    "feat": "features that the heads see",
    "rpn_cls": "objectness logits",
    "rpn_reg": "anchor deltas",
    "proposals": "proposals, px",
    "roi_feat": "RoI features",
    "roi_cls": "class logits",
    "roi_reg": "box deltas",
    "detections": "detected boxes, px",
    "scores": "their scores, absolute",
}


def page(results: Mapping[Case, Differences]) -> str:
    """The page in Markdown."""
    lines = [
        _HEAD,
        f"| | {' | '.join(_title(case) for case in results)} | allowed |",
        "|---" * (len(results) + 2) + "|",
    ]
    for name, meaning in _MEANINGS.items():
        cells = [f"{of_case[name]:.1e}" if name in of_case else "" for of_case in results.values()]
        lines.append(f"| {meaning} | {' | '.join(cells)} | {TOLERANCES[name]:.0e} |")
    return "\n".join([*lines, "", _TAIL, ""])


_HEAD = """\
# The same numbers as mmtracking

flowdet is a new implementation of DFF and FGFA. Whether it is the same systems was measured. mmtracking 0.14.0
(mmdet 2.28.2, mmcv 1.7.2) ran all six published systems on synthetic clips, in float32 on a CPU, with weights that
follow from each parameter's name, and its tensors were recorded; flowdet ran with the same weights on the same clips.

The table holds the largest difference in any frame (DFF: 12, FGFA: 20, the repeated references at both ends of the
video included), relative to the largest value of the tensor unless it says otherwise. Mean, deviation and length of
the whole tensors are compared in every frame, their values in four or five frames, the detections in every frame.
Proposals and detections are matched with their nearest counterpart; none is missing and none is added. RoI features,
class logits and box deltas are those of the recorded proposals.
"""

_TAIL = """\
Clips are 160x224 pixels, or 135x240 resized to 113x200 and padded to 128x208 (marked "resized"); resized pixels are
equal to the bit. mmtracking itself, on another processor or with another number of threads, differs by up to 7e-6 in
features, 6e-5 px in flow, 1e-5 in the RPN's outputs and 1e-3 px in detected boxes.

Training is compared by `tests/test_training_reference.py`, for DFF on videos, DFF on stills, FGFA, SELSA and Temporal
RoI Align: sampled anchors and RoIs are the same, losses agree to 1e-5, and the same parameters are frozen. Lengths of
gradients agree to 1e-3 (1.8e-3 for the first bias of FlowNet-S). After a step of SGD losses agree to 1e-5, those of
SELSA to 2e-4 and of Temporal RoI Align to 2e-3: rounding of one RoI passes to those that attend to it.

Another processor rounds in another way: with AVX2 in place of AVX-512, scores of `dff-r101` in float32 differ from the
record by 2.6e-4, and of two RoIs with nearly one score the other may win. The tests therefore compute in float64, which
is the same everywhere, what they compare most closely.

`python -m tests.compare_reference REFERENCE docs/reference.md` wrote this page from the full record. A part of it is
in `tests/golden`, so that every run of the tests checks all six systems."""


def _title(case: Case) -> str:
    return case.system + (" resized" if case.size.startswith("b") else "")


def _main(reference: str, target: str) -> None:
    results = {}
    for case in CASES:
        results[case] = compare_case(seeded_system(case.system), case, read_full(case, Path(reference)))
    Path(target).write_text(page(results))


if __name__ == "__main__":
    _main(*sys.argv[1:])
