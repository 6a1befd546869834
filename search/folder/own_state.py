"""Where this user's notes on this machine are, outside of all run folders."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def own_state() -> Path | None:
    """Return the folder of this user's notes, which need not exist; None without a home."""
    try:
        return Path(platformdirs.user_state_path("sekron"))
    except RuntimeError:  # there is no home to be found
        return None
