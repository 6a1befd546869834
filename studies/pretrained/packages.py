"""Where an installed package keeps a file; the package is not imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def file_of(package: str, path: str, install: str) -> Path:
    """Return a file that a package carries.

    Args:
        package: Its name, as pip knows it.
        path: Of the file, from the folder that packages are installed in.
        install: The command that installs it, for the error.

    Raises:
        ModuleNotFoundError: If the package, or the file in it, is not there.
    """
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the weights are in the package {package}; {install}."
        ) from error
    if not found.is_file():
        raise ModuleNotFoundError(
            f"the package {package} must carry {path}, but does not; install another version."
        )
    return found
