"""Packages that only other runtimes need: imported where they are used, and not before."""

from __future__ import annotations

import importlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

SHARED = threading.RLock()
"""Held where something is changed that all threads of a process share: two that interleave would
leave it changed."""


def needed(package: str, extra: str) -> Any:
    """Return a package that is an extra of ours.

    Args:
        package: Its name.
        extra: Of ours, which installs it.

    Raises:
        ImportError: If it is not installed, or does not import.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"the package {package} must be installed for this, but {error}; "
            f"pip install 'sekron[{extra}]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters log, warn and print; their errors are still raised."""
    with SHARED:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with (
                warnings.catch_warnings(),
                redirect_stdout(io.StringIO()),
                redirect_stderr(io.StringIO()),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)
