"""flowdet data synthesize: the synthetic benchmark on disk."""

import os
from pathlib import Path
from typing import Literal

from flowdet.class_names import VID_CLASSES
from flowdet.cli import console
from flowdet.cli.console import progress_bar
from flowdet.cli.data_report import print_report
from flowdet.data.check import check
from flowdet.data.synthetic.assets import SPLITS
from flowdet.data.synthetic.benchmark import SEED, clip_count
from flowdet.data.synthetic.benchmark import synthesize as write_benchmark
from flowdet.errors import ConfigError

__all__ = ["synthesize"]


def synthesize(
    out: Path,
    *,
    split: Literal["train", "val", "both"] = "both",
    clips: int | None = None,
    seed: int = SEED,
    processes: int | None = None,
) -> None:
    """Make the synthetic benchmark: clips of the 30 ImageNet VID classes, with boxes, tracks and known flow.

    Everything it needs comes with the package. The same version, seed and split make the same clips. Run it again to
    continue an interrupted run. OUT gets a folder of frames for each split, and annotations/synthetic_train.json and
    synthetic_val.json, whose file names lie below OUT.

    Args:
        out: Folder to write to.
        split: Training and validation have no drawing or photograph in common.
        clips: Number of clips in each split, to try things out. [default: 600 for training, 180 for validation]
        seed: Another seed makes other clips, which are not the benchmark's.
        processes: Number of processes. [default: one for each core]
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"the number of processes is 1 or more, not {processes}")
    if clips is not None and clips < 1:
        raise ConfigError(f"the number of clips is 1 or more, not {clips}")
    splits = SPLITS if split == "both" else (split,)
    with progress_bar("rendering", clip_count(splits, clips), "clips") as progress:
        written = write_benchmark(
            out,
            splits,
            VID_CLASSES,
            clips=clips,
            seed=seed,
            processes=processes or os.cpu_count() or 1,
            progress=progress,
        )
    for path in written:
        print_report(check(path), show_all=False)
    console.out.print(f"the pictures of {' and '.join(str(path) for path in written)} lie below {out}")
