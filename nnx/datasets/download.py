"""Files from the network, checked against known checksums and kept in the user's cache folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnx.errors import InputError

from .needs import optional


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: the data set, and its folder in the cache.
        mirrors: addresses of folders that hold the files, tried in this order.
        checksums: file name -> SHA-256 of the file, in hexadecimal.
    """

    name: str
    mirrors: tuple[str, ...]
    checksums: dict[str, str]


def fetch(source: Source, cache: Path | None = None) -> Path:
    """Return the folder that holds the source's files, after downloading those that are missing or damaged.

    A file appears under its name only once it is complete and its checksum is right.

    Args:
        source: what to fetch.
        cache: the folder to keep data sets in; None is the user's cache folder for nnx.

    Raises:
        MissingExtra: pooch is not installed. InputError: there is no such cache folder.
        ConnectionError: no mirror gave every file; the message lists what was tried.
    """
    pooch = optional("pooch", "train", f"downloading {source.name}")
    folder = (cache_folder() if cache is None else cache) / source.name
    registry = {name: f"sha256:{checksum}" for name, checksum in source.checksums.items()}
    failures = []
    for mirror in source.mirrors:
        shelf = pooch.create(path=folder, base_url=mirror, registry=registry)
        try:
            for name in registry:
                shelf.fetch(name)
            return folder
        except (OSError, ValueError) as error:  # the network or the disk; a wrong checksum
            failures.append(f"  {mirror}: {error}")
    raise ConnectionError(
        f"{source.name} could not be downloaded to {folder}. Tried:\n" + "\n".join(failures) + "\n"
        f"Check the connection and try again; or download {', '.join(registry)} by other means, "
        f"and give the folder that holds them."
    )


def cache_folder() -> Path:
    """Return the user's cache folder for nnx, which may not be there yet.

    Raises:
        MissingExtra: pooch is not installed. InputError: the user has no home.
    """
    pooch = optional("pooch", "train", "downloading data sets")
    try:
        return Path(pooch.os_cache("nnx"))
    except RuntimeError as error:
        raise InputError(
            f"there is no folder to keep data sets in: {error}; or set NNX_DATA to a folder that holds them"
        ) from error
