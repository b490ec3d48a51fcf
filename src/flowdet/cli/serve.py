"""flowdet serve: detect in the browser."""

import ipaddress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from flowdet.cli import console
from flowdet.cli.arguments import DEFAULTS, Options
from flowdet.errors import ConfigError
from flowdet.systems.load import load_system
from flowdet.tracking.online import TrackerConfig
from flowdet.video.description import VIDEO_SUFFIXES
from flowdet.viewer.jobs import Jobs, detecting
from flowdet.work.annotate import Shown

__all__ = ["serve"]


def serve(
    system: str | None = None,
    *,
    options: Options = DEFAULTS,
    clips: Path | None = None,
    score: float = 0.3,
    track: bool = True,
    host: str = "127.0.0.1",
    port: int = 8000,
    largest: int = 500,
    queue: int = 4,
) -> int:
    """Detect in the browser: upload or choose a clip, and look at its page when it is done.

    Everything is written to a temporary folder, which is removed at the end.

    Args:
        system: One of `flowdet models`. [default: fgfa-nano]
        options: Which system, and how it detects.
        clips: A folder of videos to choose from.
        score: Leave out detections below this score.
        track: Give the same object the same id in all frames.
        host: The address to listen at. Whoever reaches it can use this machine; there is no password.
        port: The port to listen at.
        largest: The largest upload in MB.
        queue: The largest number of clips that wait.
    """
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise ConfigError("flowdet serve needs fastapi and uvicorn: pip install 'flowdet[web]'")
    if not 0 <= score <= 1:
        raise ConfigError(f"a score lies between 0 and 1, not at {score}")
    if not 1 <= port <= 65535:
        raise ConfigError(f"a port is a number from 1 to 65535, not {port}")
    if largest < 1 or queue < 1:
        raise ConfigError("--largest and --queue are whole numbers from 1 on")
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigError(f"--host is localhost or an address such as 127.0.0.1, not {host}") from error
    try:
        found = sorted(file for file in clips.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES) if clips else []
    except OSError as error:
        raise ConfigError(f"the folder {clips} cannot be read: {error.strerror}") from error
    import uvicorn  # noqa: PLC0415  (an extra)

    from flowdet.viewer.server import make_app  # noqa: PLC0415

    shown = Shown(score=score, tracker=TrackerConfig.from_score(score) if track else None)
    detector = load_system(replace(options, system=system))
    with TemporaryDirectory(prefix="flowdet-serve-") as folder:
        jobs = Jobs(Path(folder), detecting(detector, shown), queue)
        address = f"[{host}]" if ":" in host else host
        console.out.print(f"http://{address}:{port} is ready; Ctrl-C ends it")
        console.flush()
        try:
            app = make_app(jobs, host=host, clips=found, largest_upload=largest << 20)
            uvicorn.run(app, host=host, port=port, log_level="warning")
        finally:
            jobs.close()
    return 0
