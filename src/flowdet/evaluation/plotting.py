"""What all plots share: whether Matplotlib is there, and the names of users on it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from PIL.ImageFont import FreeTypeFont

from flowdet.errors import ConfigError
from flowdet.video.draw import readable

__all__ = ["check_plotting", "readable_names"]

_SIZE = 12  # of the fonts that are looked for; plots take any size of them


def check_plotting() -> None:
    """Checks that plots can be drawn.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401, PLC0415  (an optional extra)
    except ImportError as error:
        raise ConfigError("plots need Matplotlib: pip install matplotlib") from error


@contextmanager
def readable_names(names: Iterable[str]) -> Iterator[Callable[[str], str]]:
    """Lets plots that are made in this block show names of any alphabet.

    Yields:
        What returns one of the names as Matplotlib must be given it: not to be read as a formula, and in Latin letters
        where no font has its characters.
    """
    check_plotting()
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.font_manager import FontProperties, fontManager  # noqa: PLC0415

    shown = {name: readable(name, _SIZE) for name in dict.fromkeys(names)}
    families = list(mpl.rcParams["font.family"])
    for _, font in shown.values():
        if isinstance(font, FreeTypeFont) and isinstance(font.path, str):  # the default font is no file
            fontManager.addfont(font.path)
            families.append(FontProperties(fname=font.path).get_name())
    with mpl.rc_context({"font.family": list(dict.fromkeys(families))}):
        yield lambda name: shown[name][0].replace("$", r"\$")
