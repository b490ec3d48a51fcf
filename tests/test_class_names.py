import pytest

from flowdet.class_names import COCO_CLASSES, SYNONYMS, VID_CLASSES, VID_WORDNET_IDS, check_class_names, find_class
from flowdet.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cat", "did you mean domestic_cat?"),
        ("cats", "did you mean domestic_cat?"),
        ("Cat", "did you mean domestic_cat?"),
        ("Domestic Cat", "did you mean domestic_cat?"),
        ("panda", "did you mean giant_panda or red_panda?"),
        ("boat", "did you mean watercraft?"),
        ("cow", "did you mean cattle?"),
        ("motorbike", "did you mean motorcycle?"),
        ("aeroplane", "did you mean airplane?"),
        ("bike", "did you mean bicycle?"),
        ("buses", "did you mean bus?"),
        ("zebar", "did you mean zebra?"),
        ("person", "the classes are airplane, antelope, bear,"),
    ],
)
def test_a_wrong_name_gets_the_nearest_class(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_class_names(["dog", name], VID_CLASSES)
    assert f"there is no class {name!r}; {hint}" in str(raised.value)


def test_known_names_pass_and_a_text_does_not() -> None:
    check_class_names(VID_CLASSES, VID_CLASSES)
    check_class_names([], VID_CLASSES)
    with pytest.raises(ConfigError, match=r'given as a list: \["dog"\]'):
        check_class_names("dog", VID_CLASSES)


def test_the_class_sets() -> None:
    assert (len(set(VID_CLASSES)), len(set(COCO_CLASSES)), len(set(VID_WORDNET_IDS.values()))) == (30, 80, 30)
    assert (COCO_CLASSES[0], COCO_CLASSES[15], COCO_CLASSES[62], COCO_CLASSES[79]) == (
        "person",
        "cat",
        "tv",
        "toothbrush",
    )
    assert VID_WORDNET_IDS["dog"] == "n02084071"
    names = [name for group in SYNONYMS for name in group]
    assert len(names) == len(set(names))


def test_the_classes_that_coco_and_imagenet_vid_share() -> None:
    shared = {name: find_class(name, COCO_CLASSES) for name in VID_CLASSES}
    assert {name: other for name, other in shared.items() if other not in {name, None}} == {
        "cattle": "cow",
        "domestic_cat": "cat",
        "watercraft": "boat",
    }
    assert sorted(name for name, other in shared.items() if other is None) == [
        "antelope",
        "fox",
        "giant_panda",
        "hamster",
        "lion",
        "lizard",
        "monkey",
        "rabbit",
        "red_panda",
        "snake",
        "squirrel",
        "tiger",
        "turtle",
        "whale",
    ]
