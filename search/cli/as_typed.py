"""Arguments of Python in what is told, by the names that their options have on the command line."""

from __future__ import annotations

import re

OPTIONS = {
    "n_trials": "--trials",
    "n_network_trials": "--network-trials",
    "max_sequence_length": "--max-length",
    "n_threads": "--threads",
}
"""Argument -> option, where the option is not the argument with dashes."""

NAMED = re.compile(rf"`({'|'.join(OPTIONS)})`|\b({'|'.join(OPTIONS)})(?==)")
"""An argument between backticks, or with its value."""


def as_typed(text: str) -> str:
    """Return a message with options in the place of arguments.

    Example:
        >>> as_typed("`n_trials` must be at least 0, got -1.")
        '`--trials` must be at least 0, got -1.'
        >>> as_typed("it was searched with max_sequence_length=3, got 2.")
        'it was searched with --max-length=3, got 2.'
    """

    def option(found: re.Match[str]) -> str:
        quoted, valued = found.groups()
        return f"`{OPTIONS[quoted]}`" if quoted else OPTIONS[valued]

    return NAMED.sub(option, text)
