"""Files that a search wrote and reads again: what is wrong with one, in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn whatever goes wrong with the contents of a file into one error that names it.

    Args:
        source: Of the file.

    Raises:
        ValueError: In the place of the errors that a missing or a wrong entry leads to.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{source} is damaged: it has no {error.args[0]!r}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is damaged: {error}.") from error


def document(text: str, name: str, version: int) -> Any:
    """Return what a JSON text holds, where it says that it is of this format and version.

    Raises:
        ValueError: If it is no JSON, or of another format or version.
        KeyError: If it says neither.
    """
    data = json.loads(text)
    if data["format"] != name or data["version"] != version:
        raise ValueError(f"it is {data['format']} {data['version']}")
    return data
