"""The model card of a weight file: what the file itself says, and what the run that wrote it has recorded beside it."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

import flowdet
from flowdet.errors import FlowdetError
from flowdet.files import file_sha256
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.training.records import read_log
from flowdet.weights.native import read_native

__all__ = ["model_card"]


def model_card(path: Path, address: str, license_id: str | None = None) -> str:
    """Returns the Markdown text of a model card, which states nothing that is not recorded.

    Args:
        path: A native weight file. Its training and metrics are known if it lies in the folder of its training run.
        address: Where it can be loaded from, "hf://owner/name".
        license_id: The licence of the weights, as the Hugging Face Hub abbreviates it; None leaves it open.

    Raises:
        CheckpointError: It is no native weight file.
    """
    config, weights = read_native(path)
    method = type(config.method).__name__.removesuffix("Config")
    detector = type(config.detector).__name__.removesuffix("Config")
    head = {
        "library_name": "flowdet",
        "pipeline_tag": "object-detection",
        **({"license": license_id} if license_id else {}),
        "tags": ["video", "video-object-detection", method.lower(), detector.lower()],
    }
    rows = {
        "method": method,
        "detector": detector,
        "values": f"{sum(tensor.numel() for tensor in weights.values()):,}",
        "input": f"long side {config.inputs.long_side} px, short side {config.inputs.short_side} px",
        "licence": license_id or "not stated",
        "SHA-256": file_sha256(path),
        "written with": f"flowdet {flowdet.__version__}",
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {config.name}\n",
        "Finds objects in videos. The file holds tensors and a configuration, no code.\n",
        f'```python\nimport flowdet\n\nmodel = flowdet.load("{address}")\n'
        'with flowdet.open_video("clip.mp4") as video:\n    for detections in model.detect(video, score=0.3):\n'
        "        print(detections.frame_index, detections.names, detections.boxes)\n```\n",
        _table(rows),
        f"## Classes\n\n{', '.join(config.class_names)}\n",
        *_training(path, config),
    ]
    return "\n".join(parts)


def _training(path: Path, config: SystemConfig) -> list[str]:
    """What the run that wrote this file has recorded; that nothing is known if it lies elsewhere."""
    unknown = ["## Training\n\nThe file does not say what it was trained on, and no metrics are recorded.\n"]
    epoch = re.fullmatch(r"epoch_([0-9]+)\.safetensors", path.name)
    if path.name != "weights.safetensors" and not epoch:
        return unknown
    try:
        run = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        log = read_log(path.parent)
        if run["system"] != json.loads(config_to_json(config)):
            return unknown
        data = [Path(each["annotations"]).name for each in run["options"]["data"]]
        rows = {
            **{
                f"data {n}": f"{name}, SHA-256 {sha}"
                for n, (name, sha) in enumerate(zip(data, run["data_sha256"], strict=True), 1)
            },
            **{f"starts from ({part})": f"SHA-256 {sha}" for part, sha in run["start_sha256"].items()},
            **{
                name.replace("_", " "): run["plan"][name]
                for name in ("epochs", "batch", "learning_rate")
                if name in run["plan"]
            },
        }
        validation = run["options"]["validation"]
    except (OSError, ValueError, KeyError, TypeError, FlowdetError):
        return unknown
    evaluated = [entry for entry in log if "metrics" in entry and (not epoch or entry.get("epoch") == int(epoch[1]))]
    found = [
        f"## Training\n\nTrained by `flowdet train`; the annotation files are named by their digests.\n\n{_table(rows)}"
    ]
    if not evaluated or not validation:
        return [*found, "## Metrics\n\nNone are recorded.\n"]
    last = evaluated[-1]
    metrics: dict[str, Any] = {
        f"{name} ({protocol})": "-" if value is None else f"{100 * value:.1f} %"
        for protocol, values in last["metrics"].items()
        for name, value in values.items()
    }
    where = f"On {Path(validation['annotations']).name}, after epoch {last['epoch']}, as the training evaluated it."
    return [*found, f"## Metrics\n\n{where}\n\n{_table(metrics)}"]


def _table(rows: dict[str, Any]) -> str:
    lines = (f"| {name} | {str(value).replace('|', ' ')} |\n" for name, value in rows.items())
    return f"| | |\n| --- | --- |\n{''.join(lines)}"
