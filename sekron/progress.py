"""How far a long computation is, on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def bar(shown: bool = True, columns: Sequence[ProgressColumn] = ()) -> Progress:
    """Return a progress bar: what is being done, how much of it is done, the time left.

    Args:
        shown: Whether it is.
        columns: In place of the last two, which count steps and take them for equally long.
    """
    # Rich takes longer to import than all of this package, and a network that runs needs no bar.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeRemainingColumn())),
        console=Console(stderr=True),
        disable=not shown,
    )
