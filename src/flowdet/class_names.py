"""The class sets of COCO and ImageNet VID, and which names of theirs mean the same."""

import re
from collections.abc import Collection
from difflib import get_close_matches

from flowdet.errors import ConfigError

__all__ = ["COCO_CLASSES", "SYNONYMS", "VID_CLASSES", "VID_WORDNET_IDS", "check_class_names", "find_class"]

VID_WORDNET_IDS = {
    "airplane": "n02691156",
    "antelope": "n02419796",
    "bear": "n02131653",
    "bicycle": "n02834778",
    "bird": "n01503061",
    "bus": "n02924116",
    "car": "n02958343",
    "cattle": "n02402425",
    "dog": "n02084071",
    "domestic_cat": "n02121808",
    "elephant": "n02503517",
    "fox": "n02118333",
    "giant_panda": "n02510455",
    "hamster": "n02342885",
    "horse": "n02374451",
    "lion": "n02129165",
    "lizard": "n01674464",
    "monkey": "n02484322",
    "motorcycle": "n03790512",
    "rabbit": "n02324045",
    "red_panda": "n02509815",
    "sheep": "n02411705",
    "snake": "n01726692",
    "squirrel": "n02355227",
    "tiger": "n02129604",
    "train": "n04468005",
    "turtle": "n01662784",
    "watercraft": "n04530566",
    "whale": "n02062744",
    "zebra": "n02391049",
}
"""The classes of ImageNet VID in the published order, each with its WordNet id."""

VID_CLASSES = tuple(VID_WORDNET_IDS)
"""The 30 classes of ImageNet VID in the order of the published weights."""

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""The 80 classes of COCO in the order of their category ids."""

SYNONYMS = (
    frozenset({"airplane", "aeroplane", "plane", "aircraft"}),
    frozenset({"bicycle", "bike"}),
    frozenset({"car", "automobile"}),
    frozenset({"cat", "domestic cat"}),
    frozenset({"cattle", "cow"}),
    frozenset({"cell phone", "mobile phone", "cellphone"}),
    frozenset({"couch", "sofa"}),
    frozenset({"dining table", "diningtable"}),
    frozenset({"dog", "domestic dog"}),
    frozenset({"donut", "doughnut"}),
    frozenset({"hair drier", "hair dryer"}),
    frozenset({"motorcycle", "motorbike"}),
    frozenset({"person", "pedestrian", "human"}),
    frozenset({"potted plant", "pottedplant", "houseplant"}),
    frozenset({"rabbit", "bunny"}),
    frozenset({"refrigerator", "fridge"}),
    frozenset({"truck", "lorry"}),
    frozenset({"turtle", "tortoise"}),
    frozenset({"tv", "television", "tvmonitor"}),
    frozenset({"watercraft", "boat", "ship"}),
)
"""Names of one and the same class in COCO, ImageNet VID, Pascal VOC and MOT, in lower case with spaces."""


def find_class(name: str, known: Collection[str]) -> str | None:
    """Returns the known class that a name means, by its spelling or a synonym; None if there is none.

    Capitals, spaces, hyphens and underscores make no difference.
    """
    if name in known:
        return name
    plain = _plain(name)
    same = next((group for group in SYNONYMS if plain in group), frozenset({plain}))
    return next((other for other in known if _plain(other) in same), None)


def check_class_names(names: Collection[str], known: Collection[str]) -> None:
    """Passes if all names are among the known ones.

    Raises:
        ConfigError: One is not, or a text came in place of a collection.
    """
    if isinstance(names, str):
        raise ConfigError(f'classes are given as a list: ["{names}"]')
    for name in names:
        if name not in known:
            near = _nearest(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the classes are {', '.join(known)}"
            raise ConfigError(f"there is no class {name!r}; {hint}")


def _nearest(name: str, known: Collection[str]) -> list[str]:
    """Returns the known classes that a wrong name may mean, the likeliest kind of likeness only."""
    plain = _plain(name)
    words = {plain, plain.removesuffix("s")}
    for word in sorted(words, key=len, reverse=True):
        if (found := find_class(word, known)) is not None:
            return [found]
    containing = [other for other in known if words & set(_plain(other).split())]
    return containing or get_close_matches(name, known, n=1)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())
