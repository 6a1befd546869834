"""Factors that a search has computed, kept in its run folder for whoever needs them again.

They would become weights of a network, and a run folder may be a stranger's: so each file carries a
code that only its user can make, on this machine, and what has none is computed anew.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from search.folder.own_state import own_state
from search.per_layer.identity import digest
from sekron.decomposition.decompose import check_weight, decompose
from sekron.decomposition.metric import Metric
from sekron.records import replacing
from sekron.structures.structure import Structure

LIMIT = 2**29
"""Bytes of all files together, of which those that were not used for longest are removed."""

PART = LIMIT // 8
"""Bytes that a process writes, at most, before it looks whether there is room; of a file, too."""

HEAD_BYTES = 4096
"""Most that a file is larger than its numbers."""

NAMES = f"{64 * '[0-9a-f]'}.factors"
"""Pattern of their names, so that nobody else's are removed."""

CODE_BYTES = 32
"""In which a file begins with its code."""

VERSION = 1
"""Of how factors are computed: what another one has computed is not found."""


class FactorCache:
    """Decomposes a weight, unless its factors are known.

    Args:
        folder: Of the files; it need not exist.
        keeps: Whether to write down what is computed, else the folder is only read.
    """

    def __init__(self, folder: Path, *, keeps: bool) -> None:
        self._folder, self._keeps = folder.absolute(), keeps
        self._written = LIMIT  # since files were last removed: those of others are not known

    def __call__(
        self, weight: Tensor, structure: Structure, *, metric: Metric | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `decompose` returns, for the same weight, structure and metric."""
        check_weight(weight, structure)
        key = _key(self._keeps) if self._keeps or self._folder.is_dir() else None
        if key is None:
            return decompose(weight, structure, metric=metric)
        path = self._folder / _name(weight, structure, metric)
        factors = self._read(path, key, weight.element_size() * structure.n_params)
        if factors is None:
            factors = decompose(weight, structure, metric=metric)
            if self._keeps:
                with suppress(OSError, SafetensorError):  # then they are computed again
                    self._write(path, key, factors)
        return tuple(factor.to(weight.device) for factor in factors)

    def _read(self, path: Path, key: bytes, size: int) -> tuple[Tensor, ...] | None:
        """Return the factors in a file, None if there are none that this user has written."""
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > size + HEAD_BYTES:
                return None
            content = path.read_bytes()
            code, tensors = content[:CODE_BYTES], content[CODE_BYTES:]
            if not hmac.compare_digest(code, _code(key, path.name, tensors)):
                return None
            factors = load(tensors)
        except (OSError, SafetensorError):
            return None
        if self._keeps and not self._folder.is_symlink():
            with suppress(OSError):  # another process may have made room
                os.utime(path)
        return tuple(factors[str(k)] for k in range(len(factors)))

    def _write(self, path: Path, key: bytes, factors: Sequence[Tensor]) -> None:
        tensors = save({str(k): factor.cpu() for k, factor in enumerate(factors)})
        # A link may lead out of the run folder.
        if self._folder.is_symlink() or len(tensors) > PART:
            return
        self._folder.mkdir(exist_ok=True)
        self._written += len(tensors)
        if self._written > PART:
            self._make_room()
            self._written = len(tensors)
        with replacing(path) as partial:
            partial.write_bytes(_code(key, path.name, tensors) + tensors)

    def _make_room(self) -> None:
        """Remove files, those that were not used for longest first, until there is room."""
        files = []
        for path in chain(self._folder.glob(NAMES), self._folder.glob(f".{NAMES}.*")):
            with suppress(OSError):  # another process may have made room
                files.append((path, path.lstat()))
        excess = sum(status.st_size for _, status in files) + PART - LIMIT
        for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
                excess -= status.st_size


def _name(weight: Tensor, structure: Structure, metric: Metric | None) -> str:
    """Return the name of the file for what decides the factors."""
    tensors = [weight] if metric is None else [weight, metric.output, metric.input]
    asked = " ".join([str(VERSION), str(structure), *map(digest, tensors)])
    return f"{hashlib.sha256(asked.encode()).hexdigest()}.factors"


def _code(key: bytes, name: str, tensors: bytes) -> bytes:
    return hmac.digest(key, name.encode() + tensors, "sha256")


def _key(is_made: bool) -> bytes | None:
    """Return the secret of this user on this machine, None where there is none.

    Args:
        is_made: Whether it is made where it is missing, if the disk lets it.
    """
    folder = own_state()
    with suppress(OSError):
        if folder is None:
            return None
        path = folder / "secret"
        if is_made and not _is_secret(path):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(secrets.token_bytes(CODE_BYTES))
        if _is_secret(path):  # that of another process, if it was later
            return path.read_bytes()
    return None


def _is_secret(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == CODE_BYTES
