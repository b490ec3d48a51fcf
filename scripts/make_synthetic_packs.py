"""Packs the drawings and photographs of the synthetic benchmark, once; `flowdet data synthesize` needs the packs only.

Run it in a folder that holds `npm/` and `deb/`: every package of `npm pack NAME@VERSION` (see `FAMILIES`) unpacked as
`npm/<family>/package`, and the packages of `synthetic_backgrounds.csv` unpacked with `dpkg-deb -x` (for GCompris, the
resource `explore_monuments.rcc` with Qt's `rcc --reverse`; for scikit-learn, the wheel) as `deb/<package>`.
Needs `resvg-py` and `scipy` from PyPI.
"""

import csv
import io
import json
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image
from scipy import ndimage

SPRITE_SIDE = 192
PHOTO_WIDTH = 880
WATER_RANGE = 48

# family -> (split, npm package, licence, holder)
FAMILIES = {
    "noto": ("train", "@iconify-json/noto@1.2.9", "Apache-2.0", "Noto Emoji, Google Inc."),
    "noto-v1": ("train", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Noto Emoji (v1), Google Inc."),
    "fluent-3d": ("train", "@lobehub/fluent-emoji-3d@1.1.0", "MIT", "Fluent Emoji, Microsoft Corporation"),
    "fluent-flat": ("train", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Fluent Emoji, Microsoft Corporation"),
    "emojione": ("train", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "Emoji One 2.3 (EmojiTwo)"),
    "emojione-v1": ("train", "@iconify-json/emojione-v1@1.2.3", "CC-BY-SA-4.0", "Emoji One 1.5"),
    "fxemoji": ("train", "@iconify-json/fxemoji@1.2.2", "Apache-2.0", "FxEmojis, Mozilla"),
    "streamline": ("train", "@iconify-json/streamline-emojis@1.2.4", "CC-BY-4.0", "Streamline Emojis, Streamline"),
    "twemoji": ("val", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twemoji, Twitter, Inc. and contributors"),
    "openmoji": ("val", "@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji"),
}

LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}

MIT = """- MIT, Copyright (c) Microsoft Corporation:
  Permission is hereby granted, free of charge, to any person obtaining a
  copy of this software and associated documentation files (the "Software"), to deal in the Software without
  restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense,
  and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
  following conditions: The above copyright notice and this permission notice shall be included in all copies or
  substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
  IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
  NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
  LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
  SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

# class -> names as in the packages, with the code point for the family that is named by it
SPRITES = {
    "airplane": "airplane:2708 small-airplane:1f6e9 airplane-departure airplane-arrival",
    "antelope": "deer:1f98c",
    "bear": "bear:1f43b bear-face polar-bear:1f43b-200d-2744-fe0f",
    "bicycle": "bicycle:1f6b2",
    "bird": "bird:1f426 bird-2 eagle:1f985 duck:1f986 dove:1f54a parrot:1f99c owl:1f989 goose:1fabf swan:1f9a2 "
    "black-bird:1f426-200d-2b1b",
    "bus": "bus:1f68c oncoming-bus:1f68d trolleybus:1f68e",
    "car": "automobile:1f697 oncoming-automobile:1f698 taxi:1f695 oncoming-taxi:1f696 sport-utility-vehicle:1f699 "
    "racing-car:1f3ce police-car:1f693",
    "cattle": "cow:1f404 cow-face:1f42e ox:1f402 water-buffalo:1f403",
    "dog": "dog:1f415 dog-face:1f436 guide-dog:1f9ae service-dog:1f415-200d-1f9ba poodle:1f429",
    "domestic_cat": "cat:1f408 cat-face:1f431 black-cat:1f408-200d-2b1b",
    "elephant": "elephant:1f418",
    "fox": "fox:1f98a fox-face fox-face-1 fox-face-2",
    "giant_panda": "panda:1f43c panda-face",
    "hamster": "hamster:1f439 hamster-face",
    "horse": "horse:1f40e horse-face:1f434",
    "lion": "lion:1f981 lion-face",
    "lizard": "lizard:1f98e",
    "monkey": "monkey:1f412 monkey-face:1f435 orangutan:1f9a7",
    "motorcycle": "motorcycle:1f3cd motor-scooter:1f6f5",
    "rabbit": "rabbit:1f407 rabbit-face:1f430",
    "red_panda": "raccoon:1f99d",
    "sheep": "ewe:1f411 ewe-1 ewe-2 ram:1f40f sheep",
    "snake": "snake:1f40d",
    "squirrel": "chipmunk:1f43f",
    "tiger": "tiger:1f405 tiger-face:1f42f",
    "train": "train:1f686 locomotive:1f682 high-speed-train high-speed-train-with-bullet-nose bullet-train:1f685 "
    "light-rail:1f688 tram:1f68a railway-car:1f683 tram-car:1f68b",
    "turtle": "turtle:1f422",
    "watercraft": "speedboat:1f6a4 sailboat:26f5 ship:1f6a2 motor-boat:1f6e5 ferry:26f4 canoe:1f6f6 "
    "passenger-ship:1f6f3",
    "whale": "whale:1f40b spouting-whale:1f433",
    "zebra": "zebra:1f993",
    "": "deciduous-tree:1f333 evergreen-tree:1f332 palm-tree:1f334 cactus:1f335 potted-plant:1fab4 rock:1faa8 "
    "house:1f3e0 sunflower:1f33b mushroom:1f344 umbrella:2602 balloon:1f388 wood:1fab5 herb:1f33f "
    "christmas-tree:1f384 hut:1f6d6 chair:1fa91 package:1f4e6 kite:1fa81",
}

# Drawn on a runway, a track on stilts or a square, or not what the name says.
LEFT_OUT = {
    *(f"{family}/airplane-{way}" for family in FAMILIES if family != "openmoji" for way in ("departure", "arrival")),
    "emojione/duck",
    "emojione/high-speed-train",
    "emojione-v1/house",
    "emojione-v1/sailboat",
    "emojione-v1/ship",
    "fluent-3d/high-speed-train",
    "fluent-flat/high-speed-train",
    "fxemoji/high-speed-train",
    "fxemoji/package",
    "fxemoji/sailboat",
    "fxemoji/ship",
    "noto-v1/railway-car",
    "noto-v1/train",
    "streamline/ship",
}

# Boats whose water is one colour from the lower edge on: it is taken away.
ON_WATER = {
    *(f"twemoji/{name.partition(':')[0]}" for name in SPRITES["watercraft"].split()),
    *(f"openmoji/{boat}" for boat in ("speedboat", "sailboat", "motor-boat", "ship", "ferry", "passenger-ship")),
    *(f"fluent-flat/{name.partition(':')[0]}" for name in SPRITES["watercraft"].split()),
    *(f"fluent-3d/{name.partition(':')[0]}" for name in SPRITES["watercraft"].split()),
    "emojione-v1/speedboat",
    "emojione-v1/motor-boat",
    *(f"emojione/{boat}" for boat in ("speedboat", "sailboat", "ship", "motor-boat", "ferry", "passenger-ship")),
    "fxemoji/speedboat",
}


@cache
def icons_of(folder: Path) -> dict[str, Any]:
    """Returns the drawings of an npm package of iconify."""
    icons: dict[str, Any] = json.loads((folder / "icons.json").read_text())
    return icons


def drawing(folder: Path, family: str, name: str, code: str) -> Image.Image | None:
    """Returns one drawing at its full size, if the family has it."""
    if family == "fluent-3d":
        found = [path for end in ("", "-fe0f") if (path := folder / "assets" / f"{code}{end}.webp").exists()]
        return Image.open(found[0]).convert("RGBA") if code and found else None
    icons = icons_of(folder)
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"].get(name) or (icons["icons"].get(alias["parent"]) if alias.keys() == {"parent"} else None)
    if icon is None:
        return None
    svg = svg_of(icons, icon, icon["body"])
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=512)))).convert("RGBA")


def svg_of(icons: dict[str, Any], icon: dict[str, Any], body: str) -> str:
    """Returns a drawing of an npm package of iconify with this body as SVG."""
    left, top, width, height = (
        icon.get(key, icons.get(key, value)) for key, value in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )


def without_water(image: Image.Image) -> Image.Image:
    """Returns the drawing without the connected region that has the colours of its lowest rows."""
    pixels = np.array(image)
    colours = pixels[..., :3].astype(int)
    row = int(np.flatnonzero(pixels[..., 3].max(axis=1) > 200)[-1]) - 2
    seeds = np.unique(colours[row, pixels[row, :, 3] > 200] // 8 * 8 + 4, axis=0)
    alike = np.zeros(colours.shape[:2], dtype=bool)
    for seed in seeds:
        alike |= np.abs(colours - seed).sum(axis=2) < WATER_RANGE
    regions, _ = ndimage.label(alike & (pixels[..., 3] > 0))
    touching = np.unique(regions[row])
    pixels[np.isin(regions, touching[touching > 0]), 3] = 0
    return Image.fromarray(pixels, "RGBA")


def reddened(image: Image.Image) -> Image.Image:
    """Returns a raccoon in the colours of a red panda: its greys become rust, its lightest and darkest parts stay."""
    pixels = np.array(image).astype(float)
    light = pixels[..., :3].mean(axis=2) / 255
    colourless = np.ptp(pixels[..., :3], axis=2) < 70
    rust = np.stack((30 + 230 * light, 150 * light, 80 * light), axis=2)
    weight = (colourless * np.clip((light - 0.2) / 0.1, 0, 1) * np.clip((0.78 - light) / 0.06, 0, 1))[..., None]
    pixels[..., :3] = pixels[..., :3] * (1 - weight) + rust * weight
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8), "RGBA")


def fitted(image: Image.Image) -> Image.Image:
    """Returns the drawing cut to its extent and brought to the common size, without a fringe."""
    seen = np.array(image)[..., 3] > 16
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    factor = SPRITE_SIDE / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BOX if factor < 0.5 else Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    """Returns the picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pack_sprites(packages: Path, target: Path) -> None:
    """Writes every drawing as <split>/<class or "_">/<family>/<name>.webp."""
    seen: set[bytes] = set()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for label, names in SPRITES.items():
            for family, (split, *_) in FAMILIES.items():
                for name, _, code in (entry.partition(":") for entry in names.split()):
                    key = f"{family}/{name}"
                    image = None if key in LEFT_OUT else drawing(packages / family / "package", family, name, code)
                    if image is None:
                        continue
                    image = without_water(image) if key in ON_WATER else image
                    image = fitted(reddened(image) if label == "red_panda" else image)
                    content = encoded(image, "WEBP", quality=88, method=4, exact=0)
                    if content not in seen:
                        archive.writestr(zipfile.ZipInfo(f"{split}/{label or '_'}/{family}/{name}.webp"), content)
                    seen.add(content)


def pack_backgrounds(packages: Path, listing: Path, target: Path) -> None:
    """Writes every photograph as <split>/<name>.jpg."""
    with listing.open() as rows, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for row in csv.DictReader(rows):
            with Image.open(packages / row["package"] / row["path"]) as file_image:
                image = file_image.convert("RGB")
            if image.width > PHOTO_WIDTH:
                height = round(image.height * PHOTO_WIDTH / image.width)
                image = image.resize((PHOTO_WIDTH, height), Image.Resampling.LANCZOS)
            content = encoded(image, "JPEG", quality=82, optimize=1)
            archive.writestr(zipfile.ZipInfo(f"{row['split']}/{row['name']}.jpg"), content)


def write_licences(listing: Path, target: Path) -> None:
    """Writes the holder, source and licence of each family."""
    lines = ["# Licences of the drawings and photographs", "", "They are not under the licence of flowdet.", ""]
    lines += ["## sprites.zip", "", "Made smaller; boats without their water; raccoons recoloured as red pandas.", ""]
    lines += ["| folder | from | holder | licence |", "|---|---|---|---|"]
    lines += [
        f"| {name} | npm {source} | {holder} | {terms} |" for name, (_, source, terms, holder) in FAMILIES.items()
    ]
    lines += [
        "",
        "## backgrounds.zip",
        "",
        "Made smaller.",
        "",
        "| file | by | licence | source |",
        "|---|---|---|---|",
    ]
    with listing.open() as rows:
        lines += [
            f"| {row['name']} | {row['author']} | {row['licence']} | {row['source']} |" for row in csv.DictReader(rows)
        ]
    lines += ["", "## Texts", "", *(f"- {name}: {url}" for name, url in LICENCES.items()), "", MIT]
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    here, source = Path(__file__).resolve().parent, Path(sys.argv[1])
    packs = here.parent / "src/flowdet/data/synthetic/pack"
    pack_sprites(source / "npm", packs / "sprites.zip")
    pack_backgrounds(source / "deb", here / "synthetic_backgrounds.csv", packs / "backgrounds.zip")
    write_licences(here / "synthetic_backgrounds.csv", packs / "LICENCES.md")
