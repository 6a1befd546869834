"""The checksum of the tensors in a safetensors file, which the file's own header tells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

CHECKSUM = "sekron.sha256"
"""Entry of the metadata with the digest of all bytes behind the header."""

UNKNOWN = "0" * 64
"""What stands there until the file is written and its digest is known."""

LENGTH_BYTES = 8
"""In which a safetensors file begins with the length of its header."""


def write_checksum(path: Path) -> None:
    """Put the digest of a file into its header, where `UNKNOWN` stands so far."""
    digest = _digest(path).encode()
    with path.open("r+b") as file:
        header = file.read(_start(path))
        file.seek(header.index(f'"{CHECKSUM}":"{UNKNOWN}"'.encode()) + len(CHECKSUM) + 4)
        file.write(digest)


def check_checksum(path: Path, metadata: Mapping[str, str]) -> None:
    """Refuse a file whose tensors are not those that were written.

    Args:
        path: Of the file.
        metadata: From its header; files of earlier releases have no checksum.

    Raises:
        ValueError: If they are not.
    """
    if metadata.get(CHECKSUM, UNKNOWN) not in (UNKNOWN, _digest(path)):
        raise ValueError(f"{path} is damaged: its tensors do not have its checksum.")


def _start(path: Path) -> int:
    """Return where the tensors of a file begin."""
    with path.open("rb") as file:
        return LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_start(path))
        return hashlib.file_digest(file, "sha256").hexdigest()
