"""Weight files in repositories of the Hugging Face Hub: hf://owner/name, or hf://owner/name@revision."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowdet.errors import ConfigError, DownloadError

__all__ = ["HUB", "hub_file", "push"]

HUB = "hf://"
"""Begins the address of a repository."""

_FILE = "model.safetensors"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^\s@]+))?", re.ASCII)


def hub_file(address: str) -> Path:
    """Returns the weight file of a repository, downloaded to the Hub's own cache unless it is there.

    Only `model.safetensors` is fetched, which holds tensors and text: no code of a repository is ever run.

    Raises:
        ConfigError: This is no such address, or the package huggingface_hub is missing.
        DownloadError: The repository, its revision or its weight file is not there, or cannot be reached.
    """
    hub = _package()
    repository, revision = _parsed(address)
    with _in_words(hub, address):
        return Path(hub.hf_hub_download(repository, _FILE, revision=revision))


def push(path: Path, address: str, card: str, *, private: bool = False) -> str:
    """Uploads a weight file and its model card in one commit; a repository that is not there is made.

    Args:
        path: A native file.
        address: The repository, without a revision.
        card: The Markdown text of its README.md, which replaces one that is there.
        private: Whether a repository that is made can be seen by its owner only.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: This is no such address, or the package huggingface_hub is missing.
        DownloadError: The Hub refuses it or cannot be reached.
    """
    hub = _package()
    repository, revision = _parsed(address)
    if revision:
        raise ConfigError(f"{address} names a revision, but weights are pushed to the main branch: leave it out")
    files = [
        hub.CommitOperationAdd(path_in_repo=_FILE, path_or_fileobj=path),
        hub.CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode()),
    ]
    with _in_words(hub, address):
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, files, commit_message="Weights and model card of flowdet")
    return str(done.commit_url)


def _package() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415  (an extra)
        import huggingface_hub.errors  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"addresses that begin with {HUB} need a package that is not here ({error}): run `pip install "
            "huggingface_hub`"
        ) from error
    return huggingface_hub


def _parsed(address: str) -> tuple[str, str | None]:
    """Returns the repository and the revision of an address."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise ConfigError(
            f"a repository of the Hugging Face Hub is {HUB}owner/name or {HUB}owner/name@revision, not {address!r}"
        )
    return found[1], found[2]


@contextmanager
def _in_words(hub: Any, address: str) -> Iterator[None]:
    """Turns what the package raises into a sentence."""
    errors = hub.errors
    # The first that fits: each of these is also one of those below it.
    reasons = {
        errors.GatedRepoError: "its owner has to let you in: ask on its page, then `hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository, or `hf auth login` has to let you in",
        errors.RevisionNotFoundError: "there is no such revision",
        errors.LocalEntryNotFoundError: "the Hub cannot be reached, and the file was not downloaded before",
        errors.EntryNotFoundError: f"it has no {_FILE}, so it holds no weights of flowdet",
        errors.HFValidationError: "this can be no name of a repository",
        errors.HfHubHTTPError: "the Hub refuses",
    }
    try:
        yield
    except tuple(reasons) as error:
        reason = next(words for kind, words in reasons.items() if isinstance(error, kind))
        said = f" ({_first_line(error)})" if isinstance(error, errors.HfHubHTTPError) else ""
        raise DownloadError(f"{address}: {reason}{said}") from error
    except (OSError, ValueError, RuntimeError) as error:  # of the network, of the disk, or without a login
        raise DownloadError(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
