"""Records on disk: typed, checked when they are read, replaced whole when they are written."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from safetensors import SafetensorError

Record = TypeVar("Record")

QUOTED = 300
"""Characters of what is wrong with a file that an error quotes."""

Count = Annotated[int, Meta(ge=0, le=2**62)]
"""How many there are of something."""

Size = Annotated[int, Meta(ge=1, le=2**31)]
"""Of an axis, or a rank."""

Positive = Annotated[float, Meta(gt=0.0, le=1e30)]
"""A time or a ratio."""

NotNegative = Annotated[float, Meta(ge=0.0, le=1e30)]
"""A share of a time that may be nothing."""


CHECKSUM = "checksum"
"""Field of a record that stands for all others; earlier releases wrote none."""


class _Header(msgspec.Struct):
    format: str
    version: int
    checksum: str = ""


def decode(
    text: str | bytes, kind: type[Record], name: str, versions: Sequence[int], source: str
) -> Record:
    """Read a record from JSON.

    Args:
        text: JSON, with `format` and `version` beside the fields of the record.
        kind: What it is read as: types, ranges and nesting are checked.
        name: The format that it must have.
        versions: Those that can be read, the newest last.
        source: What to call it in an error: its file.

    Raises:
        ValueError: If it is damaged, or of another format or version; the message says where.
    """
    try:
        header = msgspec.json.decode(text, type=_Header)
        if header.format != name:
            raise ValueError(f"{source} must be {name!r}, but is {short(header.format)!r}.")
        if header.version not in versions:
            raise ValueError(
                f"{source} must have version {' or '.join(map(str, versions))}, got "
                f"{header.version}; use the release that wrote it, or make it again."
            )
        record = msgspec.json.decode(text, type=kind)
        if header.checksum and header.checksum != _checksum(msgspec.json.decode(text)):
            raise ValueError(f"{source} is damaged: it does not have its checksum.")
        return record
    except msgspec.MsgspecError as error:
        raise ValueError(f"{source} is damaged: {short(str(error))}.") from error
    except (RecursionError, UnicodeError) as error:
        raise ValueError(f"{source} is damaged: {type(error).__name__}.") from error


def encode(record: object, name: str, version: int, is_sealed: bool = False) -> str:
    """Return a record as JSON that `decode` reads.

    Args:
        record: Something that msgspec knows: a struct or a dataclass.
        name: Of the format.
        version: Of the format.
        is_sealed: Whether it has a checksum: of what was measured, a changed digit shows nowhere
            else.
    """
    fields = msgspec.to_builtins(record, str_keys=True)
    document = {"format": name, "version": version, **fields}
    if is_sealed:
        document[CHECKSUM] = _checksum(document)
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _checksum(document: dict[str, object]) -> str:
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return hashlib.sha256(msgspec.json.encode(rest)).hexdigest()


def read_text(path: Path) -> bytes:
    """Return the contents of a file of ours.

    Raises:
        ValueError: If it is no ordinary file: a pipe would be waited for.
        FileNotFoundError: If there is none.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file, but is something else.")
    return path.read_bytes()


def check_no_link(path: Path) -> None:
    """Refuse a link where something is to be written in place: it may lead out of its folder.

    Raises:
        ValueError: If there is one.
    """
    if path.is_symlink():
        raise ValueError(
            f"{path} must not be a link, which may lead out of its folder; put in its place what "
            "it leads to."
        )


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, and put it in the place of another once it is whole.

    Whoever reads sees the old file or the new one, never a half; what fails leaves nothing behind.

    Raises:
        OSError: If the disk refuses, or something that is no file stands there, such as
            `/dev/null`; the message names the file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # the disk refuses a folder
        raise OSError(f"{path} must be a file, but is something else; name another.")
    # Other machines write here too, where numbers of processes are the same.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        partial.unlink(missing_ok=True)  # of a killed process; or a link out of the folder
        yield partial
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):  # which would hide the one before
            partial.unlink(missing_ok=True)


def check_folder(path: str | Path) -> None:
    """Raise a FileNotFoundError unless the folder of a file to be written exists."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path} must be in a folder that exists; make it first.")


def unwritten(path: Path, error: Exception) -> OSError:
    """Return the error that a file could not be written, with its name and the reason."""
    if isinstance(error, OSError) and error.errno is not None:
        return type(error)(error.errno, f"could not be written: {error.strerror}", str(path))
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OSError(f"{path} could not be written: {reason}")


def short(text: str) -> str:
    """Return the begin of a text, where it is too long to be quoted."""
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"
