"""Files that a search wrote and reads again: what is wrong with one, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
