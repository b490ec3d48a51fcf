"""Gathers more drawings and photographs cut out of their background, for training only, from freely licensed packages.

Run it as `gather_drawings.py SOURCE TARGET` with a folder SOURCE that holds `npm/` and `deb/`: every npm package of
`FAMILIES` (`npm pack NAME@VERSION`) unpacked as `npm/<family>/package` (fluent-emoji as fluent-color), and the Debian
packages (`apt-get download`) unpacked with `dpkg-deb -x` as `deb/<package>`: tuxpaint-stamps-default, openclipart-png,
gcompris-qt-data and pysiogame.
It writes TARGET/<family>/<class>__<name>.png, TARGET/SOURCES.md and, for checking, TARGET/sheet-<class>.png.
Needs `resvg-py` and `scipy` from PyPI. The families of the validation split (twemoji, openmoji) must not be added.
"""

import io
import re
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from make_synthetic_packs import FAMILIES as PACKED
from make_synthetic_packs import SPRITE_SIDE, icons_of, reddened, svg_of, without_water
from PIL import Image, ImageDraw
from scipy import ndimage

RENDER_SIDE = 256
WHITE = 236
SMALL_PART = 0.12
SOLID = 200
INKS = ("#202024", "#5b3a1e", "#7a2f2a", "#2f4d7a", "#3d5a34", "#6b6b70")

# family -> (package, licence, holder)
FAMILIES = {
    "tuxpaint": (
        "Debian tuxpaint-stamps-default 2022.06.04-1",
        "GPL-2+",
        "2002-2022 Bill Kendrick and the authors named in the package",
    ),
    "openclipart": ("Debian openclipart-png 1:0.18+dfsg-19", "public domain", "Open Clip Art Library, its authors"),
    "gcompris": (
        "Debian gcompris-qt-data 3.1-2",
        "CC-BY-SA-4.0, GPL-3+, public domain (see its copyright file)",
        "GCompris, its authors",
    ),
    "art4apps": (
        "Debian pysiogame 4.20.01-1 and gcompris-qt-data 3.1-2 (lang.rcc)",
        "CC-BY-SA-3.0",
        "Art4Apps, Smart4Kids",
    ),
    "pysiogame": ("Debian pysiogame 4.20.01-1", "public domain", "Ireneusz Imiolek; Open Clip Art Library"),
    "fluent-color": ("npm @iconify-json/fluent-emoji@1.2.7", "MIT", "Fluent Emoji, Microsoft Corporation"),
    **{
        family: (f"npm {PACKED[family][1]}", *PACKED[family][2:])
        for family in ("fluent-flat", "noto", "noto-v1", "emojione", "emojione-v1", "fxemoji", "streamline")
    },
    "flex": ("npm @iconify-json/streamline-flex-color@1.2.2", "CC-BY-4.0", "Flex, Streamline"),
    "plump": ("npm @iconify-json/streamline-plump-color@1.2.2", "CC-BY-4.0", "Plump, Streamline"),
    "ultimate": ("npm @iconify-json/streamline-ultimate-color@1.2.2", "CC-BY-4.0", "Ultimate, Streamline"),
    "game-icons": ("npm @iconify-json/game-icons@1.2.4", "CC-BY-3.0", "game-icons.net, its authors"),
}

# Emoji that scripts/make_synthetic_packs.py does not take from the families it uses.
MORE_EMOJI = {
    "antelope": "moose",
    "bird": "penguin chicken rooster flamingo peacock turkey baby-chick front-facing-baby-chick hatching-chick dodo",
    "bus": "minibus",
    "cattle": "bison",
    "domestic_cat": "grinning-cat pouting-cat",
    "monkey": "gorilla see-no-evil-monkey",
}

# family -> class -> names; a word that ends with a colon is the folder (or resource file) of those after it
DRAWINGS: dict[str, dict[str, str]] = {
    "tuxpaint": {
        "airplane": "vehicles/flight/planes: 747 plane cartoon/plane military/vehicles: f22_raptor mustang",
        "antelope": "animals/mammals/bovines: gnu-baby-stand gnu-baby gnu-sitting gnu-stand indian_blackbuck "
        "animals/mammals/deer: caribou deer doe wapiti",
        "bear": "animals/mammals/bears: bear european-bear",
        "bicycle": "vehicles/cycle: bluebike",
        "bird": "animals/birds: adelaide-rosella blackbird cartoon/pengwin cartoon/tux chicken_profile "
        "crow crowned_crane cuckoo drake duck gander guineafowl helmeted_guineafowl hen heron_greatblue "
        "heron_greatblue_flying lark little-penguin magellanic_penguin magpie nandou ostrich owl peacock pelican "
        "penguin pigeon pink_flamingo quetzal rainbow-lorikeet rooster seagull silver-gull swallow tucan turkey "
        "vulture",
        "bus": "vehicles: iso_bus masstransit/cartoon/double_decker_bus masstransit/cartoon/schoolbus "
        "masstransit/green_korean_bus",
        "car": "vehicles: auto/beetle auto/sedan auto/sportscar auto/sportscar2 auto/sportscar3 race/f1_car "
        "race/indycar",
        "cattle": "animals/mammals/bovines: bison bull cow cow_white yak zebu",
        "dog": "animals/mammals/dogs: dingo dog",
        "domestic_cat": "animals/mammals/cats: kitten",
        "elephant": "animals/mammals: elephant",
        "fox": "animals/mammals/dogs: fox",
        "horse": "animals/mammals/equines: horse",
        "lion": "animals/mammals/cats: lion lion-2",
        "lizard": "animals/lizards: iguana",
        "monkey": "animals/mammals/apes: chimp gorilla tamarin_emperor",
        "motorcycle": "vehicles/cycle: motorbike",
        "rabbit": "animals/mammals: rabbit_little rodents/rabbit rodents/rabbit-2",
        "sheep": "animals/mammals/bovines: ram sheep sheep_lamb",
        "squirrel": "animals/mammals/rodents: squirrel",
        "tiger": "animals/mammals/cats: tiger tiger_sumatran",
        "train": "vehicles/locomotive: white_train cartoon/toy_train cartoon/carriage cartoon/caboose",
        "watercraft": "vehicles/ship: chineseJunk walnutBoat",
        "whale": "animals/mammals/aquatic: orca whale",
        "zebra": "animals/mammals/equines: zebra zebra2",
    },
    "openclipart": {
        "airplane": "transportation/vehicles: aircraft_jarno_vasamaa1 aircraft_jarno_vasamaa2 aircraft_jarno_vasamaa3 "
        "aircraft_jarno_vasamaa4 plane_silhouet_mo_01 military_airplane_mo_01",
        "antelope": "animals/mammals: antilope_architetto_fran_01 fawn_mo_01 deer_matt_todd_01",
        "bear": "animals/mammals/bears: orso_architetto_francesc_01 orso_architetto_francesc_02 "
        "orso_architetto_francesc_03 orso_architetto_francesc_04 bear_peterm_01 ours_etienne_bersac_r",
        "bicycle": "transportation: bike_tobias_jakobs_ vehicles/bicycle_01",
        "bird": "animals/birds: acquila_architetto_franc_01 acquila_architetto_franc_02 acquila_architetto_franc_03 "
        "aquila_frontale_architet_01 baby_tux_01 bird_of_peace_mauro_oliv_01 cigno_architetto_frances_01 "
        "cigno_di_spalle_architet_01 cormorant-md crow_01 dove_symbol duck_yellow_kurt_cagle_ "
        "emperor_penguin_ralf_ste_01 flamand_jean-victor_bali_01 gabbiano_architetto_fran_01 "
        "gallo_di_profilo_archite_01 gufo_civetta_architetto__01 gull_marcelo_staudt_01 hen_01 jonathon_s_duck_01 "
        "new_penguin_charles_mcco_01 penguin/plush_tux_anita_01 penguin/tux_clemente_01 pollo_architetto_frances_01 "
        "puffin-md rooster_01 tacchino_architetto_fran_01 uccello_profilo_01_archi_01 seagull_nicu_buculei_01 "
        "unsorted: Anatra Colombo colombo2 gabbiano_piccolo Pinguino1 Pinguino2 Pinguino4 pennuto01 struzzo "
        "animals: tux_head_fco._andrade_01",
        "bus": "transportation: bus1_bw_jarno_vasamaa_01 bus1_jarno_vasamaa_01 bus2_bw_jarno_vasamaa_01 "
        "bus2_jarno_vasamaa_01",
        "car": "transportation: blazer_01 car_jamin_ellis_ dodge_neon_green_ganson dodge_neon_pink_ganson hummer_03 "
        "hummer_05 road_runner_ganson skoda_car_alejandro_teja_ toyota_land_cruiser_ganson "
        "old_car_lumen_design_st_r vehicles/4wd vehicles/car",
        "cattle": "animals/mammals: bull_utrescu_ vacca_pezzata_rossa_val_01 unsorted: mucca",
        "dog": "animals/mammals: dog_01_drawn_with_strai_01 dog_03_drawn_with_strai_01 dog_04_drawn_with_strai_01 "
        "dog_05_drawn_with_strai_01 dog_06_drawn_with_strai_01 dog_on_leash_gerald_g._01 dogs/beagle_copper_ganson "
        "dogs/bobi_architetto_francesc_01 dogs/bored_dog_01",
        "domestic_cat": "animals/mammals: cartoon_cat_gerald_g._01 housecats/gatto_cat_architetto_fra_01 "
        "housecats/gatto_cat_architetto_fra_02 housecats/gatto_cat_architetto_fra_03 "
        "housecats/gatto_cat_architetto_fra_04 housecats/kitten_gerald_g._01",
        "elephant": "animals/mammals: elefante01_architetto_fr_01 elefante02_architetto_fr_01 "
        "unsorted: elefante_in_corsa elefantone",
        "fox": "animals/mammals: contour_fox",
        "horse": "animals/mammals/horses: cavallo_architetto_franc_01 cavallo_architetto_franc_02 "
        "cavallo_architetto_franc_03 cavallo_architetto_franc_04 cavallo_architetto_franc_05 "
        "cavallo_architetto_franc_06 cavallo_architetto_franc_07",
        "lion": "animals/mammals/big_cats: leone_01_architetto_fran_01 leone_02_architetto_fran_01 "
        "leone_architetto_frances_01",
        "lizard": "animals: az-lizard_benji_park_01 lucertolona_architetto_f_01 ramarro_architetto_franc_01 "
        "architetto_francesco_ro_01",
        "monkey": "animals/mammals: angry_monkey_benji_park_01 happy_monkey_benji_park_01 monkey_head_nicu_buculei_01 "
        "contour_baboon",
        "motorcycle": "transportation: motorcycle_jarno_vasama_",
        "rabbit": "animals/mammals: coniglio_architetto_fran_01",
        "sheep": "animals/mammals: sheep-md-v0.1 pecora_architetto_france_01 unsorted: pecorella",
        "squirrel": "animals/mammals: cartoon_squirrel_mike_sm1 contour_chipmunk",
        "tiger": "animals/mammals/big_cats: tigre01_architetto_franc_01 tigre02_architetto_franc_01 "
        "tigre03_architetto_franc_01 tigre04_architetto_franc_01 tigre05_architetto_franc_01 "
        "color_tiger_susan_park_01 tiger_graig_ryan_smith_-_01",
        "train": "transportation: tramway_lumen_design_stu_01 recreation/toys: kiddy_train_orlando_kara_",
        "turtle": "animals: turtle_jurgen_gaeremyn_01",
        "watercraft": "transportation/boating: boat_jarno_vasamaa1 boat_jarno_vasamaa_ sailboat_illustration",
        "whale": "animals/fish: bluewhale-md orca_matthew_gates_r",
    },
    "gcompris": {
        "airplane": "babymatch: tuxplane chronos: Eole bell_X1 bleriot lindbergh rafale wright_flyer",
        "antelope": "memory: 18_gnu core: gnu_good",
        "bear": "memory: 03_bear",
        "bicycle": "babymatch: bicycle",
        "bird": "memory: 05_penguin 10_chicken 11_redbird colors: yellow_duck white_duck brown_duck core: tux_good "
        "explore_farm_animals: owl.svg",
        "car": "babymatch: car minivan chronos: 1955ds19 benz1885 bolle1878 lancia1923 renault1899 "
        "traffic: car1 car2 car5 traffic",
        "cattle": "explore_farm_animals: cow.svg memory: 06_cow",
        "dog": "explore_farm_animals: dog.svg",
        "domestic_cat": "explore_farm_animals: cat.svg memory: 01_cat",
        "elephant": "memory: 16_elephant",
        "fox": "memory: 14_fox",
        "giant_panda": "memory: 09_panda core: panda_good panda_bad",
        "horse": "explore_farm_animals: horse.svg",
        "lion": "memory: 17_lion core: lion_good lion_bad",
        "monkey": "memory: 13_monkey",
        "sheep": "explore_farm_animals: sheep.svg memory: 07_sheep",
        "train": "railroad: loco0 loco1 loco2 loco3 loco4 loco5 loco6 loco7 loco8 wagon0 wagon2 wagon6 "
        "click_on_letter: engine chronos: st_rocket",
        "turtle": "memory: 08_turtle enumerate: turtle",
        "watercraft": "babymatch: fishingboat sailingboat canal_lock: boat1 boat2 submarine: boat",
        "whale": "submarine: whale",
    },
    "art4apps": {
        "antelope": "animals: antelope deer doe fawn elk moose",
        "bear": "lang: bear",
        "bicycle": "transport: bicycle bike",
        "bird": "animals: blackbird chick crow eagle flamingo goose hen jay magpie ostrich parakeet parrot peacock "
        "pelican penguin pigeon rooster shrike sparrow vulture lang: bird chicken duck owl turkey",
        "bus": "transport: bus",
        "car": "transport: car van taxi",
        "cattle": "animals: buffalo ox lang: bull cow",
        "dog": "animals: puppy pug lang: dog",
        "domestic_cat": "animals: kitten lang: cat",
        "elephant": "animals: elephant",
        "fox": "lang: fox",
        "giant_panda": "lang: panda",
        "hamster": "animals: hamster",
        "horse": "animals: pony lang: horse",
        "lion": "animals: lion lion_cub",
        "lizard": "animals: chameleon iguana salamander lang: lizard",
        "monkey": "animals: chimp lang: gorilla",
        "motorcycle": "transport: motorcycle",
        "rabbit": "animals: baby_rabbit lang: rabbit",
        "sheep": "lang: sheep",
        "snake": "animals: cobra viper lang: snake",
        "squirrel": "animals: squirrel",
        "tiger": "animals: tiger",
        "train": "transport: train",
        "turtle": "lang: turtle",
        "watercraft": "transport: boat canoe ship",
        "whale": "lang: whale",
        "zebra": "animals: zebra",
    },
    "pysiogame": {
        "antelope": "m_img4a m_img5a",
        "bird": "m_img3a m_img8a m_img10a m_img13a m_img21a",
        "cattle": "m_img18a",
        "dog": "m_img17a",
        "domestic_cat": "m_img20a",
        "elephant": "m_img2a m_img14a",
        "lion": "m_img16a",
        "monkey": "m_img6a",
        "squirrel": "m_img15a",
    },
    "fluent-color": {
        "airplane": "airplane small-airplane",
        "antelope": "deer moose",
        "bear": "bear polar-bear",
        "bicycle": "bicycle",
        "bird": "bird eagle duck dove parrot owl goose swan blackbird penguin chicken rooster flamingo peacock turkey "
        "baby-chick front-facing-baby-chick dodo",
        "bus": "bus oncoming-bus trolleybus minibus",
        "car": "automobile oncoming-automobile taxi oncoming-taxi sport-utility-vehicle racing-car police-car",
        "cattle": "cow cow-face ox water-buffalo bison",
        "dog": "dog dog-face guide-dog service-dog poodle",
        "domestic_cat": "cat cat-face black-cat grinning-cat",
        "elephant": "elephant",
        "fox": "fox",
        "giant_panda": "panda",
        "hamster": "hamster",
        "horse": "horse horse-face",
        "lion": "lion",
        "lizard": "lizard",
        "monkey": "monkey monkey-face orangutan gorilla",
        "motorcycle": "motorcycle motor-scooter",
        "rabbit": "rabbit rabbit-face",
        "red_panda": "raccoon",
        "sheep": "ewe ram",
        "snake": "snake",
        "squirrel": "chipmunk",
        "tiger": "tiger tiger-face",
        "train": "train locomotive bullet-train light-rail tram railway-car tram-car",
        "turtle": "turtle",
        "watercraft": "speedboat sailboat ship motor-boat ferry canoe passenger-ship",
        "whale": "whale spouting-whale",
        "zebra": "zebra",
    },
    **dict.fromkeys(("fluent-flat", "noto", "noto-v1", "emojione", "emojione-v1"), MORE_EMOJI),
    "fxemoji": {
        "bird": "penguin chicken rooster babychick frontfacingchick",
        "bus": "minibus oncomingbus",
        "car": "policecar oncomingpolicecar racecar oncomingtaxi",
        "cattle": "cowface waterbuffalo",
        "dog": "dogside",
        "domestic_cat": "catside",
        "giant_panda": "pandaface",
        "horse": "horseface",
        "monkey": "monkeyface",
        "tiger": "tigerside",
        "whale": "spurtingwhale",
    },
    "streamline": {
        "bird": "chicken rooster baby-chick bird-1 penguin-1 penguin-2",
        "bus": "minibus",
        "domestic_cat": "grinning-cat-face pouting-cat-face",
        "monkey": "see-no-evil-monkey",
    },
    "flex": {
        "airplane": "airport-plane-flat",
        "bicycle": "bicycle-bike-flat",
        "bus": "school-bus-side-flat",
        "car": "car-taxi-1-flat",
        "domestic_cat": "cat-2-flat",
        "dog": "dog-1-flat",
    },
    "plump": {
        "airplane": "airplane-enabled-flat",
        "bicycle": "bicycle-bike-flat",
        "bus": "bus-flat",
        "dog": "dog-1-flat",
        "train": "high-speed-train-side-flat",
        "watercraft": "sail-ship-flat",
    },
    "ultimate": {
        "bus": "bus-1",
        "car": "car-4 car-retro taxi",
        "elephant": "circus-elephant",
        "motorcycle": "scooter scooter-3",
        "watercraft": "shipment-cargo-boat",
    },
    "game-icons": {
        "airplane": "biplane commercial-airplane",
        "antelope": "deer deer-head",
        "bear": "polar-bear",
        "bicycle": "dutch-bike",
        "bird": "rooster penguin swan",
        "bus": "bus",
        "car": "city-car race-car",
        "cattle": "cow bison",
        "dog": "sitting-dog",
        "domestic_cat": "cat",
        "elephant": "elephant",
        "fox": "fox",
        "giant_panda": "panda",
        "horse": "horse-head",
        "lion": "lion",
        "lizard": "gecko",
        "monkey": "monkey",
        "motorcycle": "scooter",
        "rabbit": "rabbit",
        "sheep": "sheep",
        "snake": "cobra rattlesnake sand-snake",
        "squirrel": "squirrel",
        "tiger": "tiger tiger-head",
        "train": "steam-locomotive",
        "turtle": "tortoise sea-turtle",
        "watercraft": "fishing-boat sailboat",
    },
}

# Boats whose water is one colour from the lower edge on: it is taken away.
ON_WATER = {f"fluent-color/{name}" for name in DRAWINGS["fluent-color"]["watercraft"].split()}


def listed(names: str) -> Iterator[tuple[str, str]]:
    """Returns the folder and the name of each drawing of a table's entry."""
    folder = ""
    for word in names.split():
        if word.endswith(":"):
            folder = word[:-1]
        else:
            yield folder, word


@cache
def resources(path: Path) -> dict[str, bytes]:
    """Returns the files of a Qt resource file, by their path."""
    content = path.read_bytes()
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    size = 22 if version > 1 else 14

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        start = tree + index * size
        offset, flags = struct.unpack(">IH", content[start : start + 6])
        letters = struct.unpack(">H", content[names + offset : names + offset + 2])[0]
        name = content[names + offset + 6 : names + offset + 6 + 2 * letters].decode("utf-16-be") if index else ""
        if flags & 2:
            count, first = struct.unpack(">II", content[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, f"{prefix}{name}/")
        else:
            begin = data + struct.unpack(">I", content[start + 10 : start + 14])[0]
            length = struct.unpack(">I", content[begin : begin + 4])[0]
            packed = content[begin + 4 : begin + 4 + length]
            yield prefix + name, zlib.decompress(packed[4:]) if flags & 1 else packed

    return dict(walk(0, ""))


def icon(folder: Path, name: str) -> bytes | None:
    """Returns a drawing of an npm package of iconify as SVG; what has the colour of text gets an ink by its name."""
    icons = icons_of(folder)
    found = icons["icons"].get(name)
    if found is None:
        return None
    body = found["body"].replace("currentColor", INKS[zlib.crc32(name.encode()) % len(INKS)])
    return svg_of(icons, found, body).encode()


def content_of(source: Path, family: str, folder: str, name: str) -> bytes | None:
    """Returns the file of one drawing, if the family has it."""
    debian = source / "deb"
    if family == "gcompris" or folder == "lang":
        path = debian / f"gcompris-qt-data/usr/share/gcompris-qt/rcc/{folder}.rcc"
        found = [
            data
            for entry, data in sorted(resources(path).items())
            if Path(entry).name == name or (Path(entry).stem == name and Path(entry).suffix in {".svg", ".webp"})
        ]
        return found[0] if found else None
    if family in {"tuxpaint", "openclipart", "art4apps", "pysiogame"}:
        root = {
            "tuxpaint": "tuxpaint-stamps-default/usr/share/tuxpaint/stamps",
            "openclipart": "openclipart-png/usr/share/openclipart/png",
            "art4apps": "pysiogame/usr/share/games/pysiogame/res/images/art4apps",
            "pysiogame": "pysiogame/usr/share/games/pysiogame/res/images/match_animals",
        }[family]
        paths = [debian / root / folder / (name + kind) for kind in (".png", ".svg", ".jpg")]
        return next((path.read_bytes() for path in paths if path.exists()), None)
    return icon(source / "npm" / family / "package", name)


def rendered(content: bytes) -> Image.Image:
    """Returns the picture of an SVG or of an image file."""
    if b"<svg" in content[:4096]:
        text = content.decode("utf-8", "replace")
        content = bytes(resvg_py.svg_to_bytes(svg_string=text, width=RENDER_SIDE))
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    image.thumbnail((2 * RENDER_SIDE, 2 * RENDER_SIDE), Image.Resampling.BOX)
    return image


def without_paper(image: Image.Image) -> Image.Image:
    """Returns the drawing without the white around it, its shadow-thin fringe included."""
    pixels = np.array(image)
    white = pixels[..., :3].min(axis=2) > WHITE
    padded = np.pad(white, 1, constant_values=True)
    regions, _ = ndimage.label(padded)
    around = (regions == regions[0, 0])[1:-1, 1:-1]
    pixels[ndimage.binary_dilation(around, iterations=2), 3] = 0
    return Image.fromarray(pixels, "RGBA")


def without_small_parts(image: Image.Image) -> Image.Image:
    """Returns the drawing without loose strokes, such as those that show motion."""
    pixels = np.array(image)
    regions, count = ndimage.label(pixels[..., 3] > 16)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    pixels[sizes[regions] < SMALL_PART * sizes.max(), 3] = 0
    return Image.fromarray(pixels, "RGBA")


def without_shadow(image: Image.Image) -> Image.Image:
    """Returns the drawing without its half-transparent parts."""
    pixels = np.array(image)
    pixels[pixels[..., 3] < SOLID, 3] = 0
    return Image.fromarray(pixels, "RGBA")


def fitted(image: Image.Image) -> Image.Image:
    """Returns the drawing cut to its extent and made no larger than the common size."""
    seen = np.array(image)[..., 3] > 16
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    factor = min(1.0, SPRITE_SIDE / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def drawing(source: Path, family: str, label: str, folder: str, name: str) -> Image.Image | None:
    """Returns one drawing as it is kept, if the family has it."""
    content = content_of(source, family, folder, name)
    if content is None:
        return None
    image = rendered(content)
    if family == "art4apps":
        image = without_small_parts(image if folder == "lang" else without_paper(image))
    if folder == "memory":
        image = without_shadow(image)
    if f"{family}/{name}" in ON_WATER:
        image = without_water(image)
    return fitted(reddened(image) if label == "red_panda" else image)


def gather(source: Path, target: Path) -> dict[str, dict[str, list[Path]]]:
    """Writes every drawing; returns the files by class and family."""
    written: dict[str, dict[str, list[Path]]] = {}
    seen: set[bytes] = set()
    for family, classes in DRAWINGS.items():
        (target / family).mkdir(parents=True, exist_ok=True)
        for old in (target / family).glob("*.png"):
            old.unlink()
        for label, names in classes.items():
            for folder, name in listed(names):
                stem = re.sub(r"[^A-Za-z0-9-]+", "_", Path(name).name.removesuffix(".svg")).strip("_")
                image = drawing(source, family, label, folder, name)
                if image is None:
                    if classes is not MORE_EMOJI:
                        sys.stderr.write(f"missing: {family} {folder} {name}\n")
                    continue
                path = target / family / f"{label}__{stem}.png"
                if path.exists():
                    path = path.with_stem(f"{path.stem}_2")
                if image.tobytes() in seen:
                    continue
                seen.add(image.tobytes())
                image.save(path)
                written.setdefault(label, {}).setdefault(family, []).append(path)
    return written


def write_sheet(files: list[Path], target: Path, cell: int = 112, columns: int = 12) -> None:
    """Writes a sheet of drawings with their names."""
    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + 22)), (150, 190, 150))
    draw = ImageDraw.Draw(sheet)
    for place, path in enumerate(files):
        left, top = place % columns * cell, place // columns * (cell + 22)
        with Image.open(path) as image:
            image.thumbnail((cell - 4, cell - 4))
            sheet.paste(image, (left + 2, top + 2), image)
        draw.text((left + 1, top + cell - 2), path.stem.partition("__")[2][:18], fill=(0, 0, 0))
        draw.text((left + 1, top + cell + 8), path.parent.name, fill=(60, 0, 90))
    sheet.save(target)


def write_sources(written: dict[str, dict[str, list[Path]]], target: Path) -> None:
    """Writes the holder, source, licence and number of the drawings of each family."""
    counts = {family: {label: len(found.get(family, [])) for label, found in written.items()} for family in FAMILIES}
    lines = ["# Sources of the drawings", "", "Cut to what is drawn and made smaller; for training only.", ""]
    lines += ["Taken away: the paper and marks of movement (art4apps), shadows (gcompris), water under some boats."]
    lines += ["The raccoons of fluent-color are recoloured as red pandas; monochrome icons got an ink.", ""]
    lines += ["| family | from | holder | licence | drawings |", "|---|---|---|---|---|"]
    for family, (package, terms, holder) in FAMILIES.items():
        if total := sum(counts[family].values()):
            lines.append(f"| {family} | {package} | {holder} | {terms} | {total} |")
    lines += ["", "## Drawings of each class", ""]
    for family in FAMILIES:
        if some := ", ".join(f"{label} {count}" for label, count in sorted(counts[family].items()) if count):
            lines.append(f"- {family}: {some}")
    totals = Counter({label: sum(map(len, found.values())) for label, found in written.items()})
    lines += ["", f"All: {sum(totals.values())}.", ""]
    lines += [f"- {label}: {count}" for label, count in sorted(totals.items())]
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    goal = Path(sys.argv[2])
    drawings = gather(Path(sys.argv[1]), goal)
    for group, by_family in drawings.items():
        write_sheet([path for found in by_family.values() for path in found], goal / f"sheet-{group}.png")
    write_sources(drawings, goal / "SOURCES.md")
