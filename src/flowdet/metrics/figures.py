"""What every protocol hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Figures"]


@dataclass(frozen=True, eq=False, slots=True)
class Figures:
    """The figures of one protocol, as shares from 0 to 1, unrounded; None where there is nothing to measure.

    Attributes:
        protocol: "coco", "ilsvrc" or "ilsvrc-motion".
        headline: The figures to quote, by name: AP, AP50 and AP75; or mAP; or slow, medium, fast and all.
        per_class: For each figure that exists per class, its value by class name: AP and AP50; or AP; or
            slow, medium, fast and all.
        document: Everything, as it goes into a JSON file.
    """

    protocol: str
    headline: Mapping[str, float | None]
    per_class: Mapping[str, Mapping[str, float | None]]
    document: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values for `json.dump`."""
        return dict(self.document)
