"""Factors that a search has computed, kept in its run folder for whoever needs them again.

They would become weights of a network, and a run folder may be a stranger's: so each file carries a
code that only its user can make, on this machine, and what has none is computed anew.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sekron.decomposition.decompose import decompose
from sekron.decomposition.metric import Metric
from sekron.records import replacing
from sekron.structures.structure import Structure

LIMIT = 2**29
"""Bytes of all files together, of which those that were not used for longest are removed."""

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
        self._folder, self._keeps = folder, keeps
        self._written = LIMIT  # since files were last removed: those of others are not known

    def __call__(
        self, weight: Tensor, structure: Structure, *, metric: Metric | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `decompose` returns, for the same weight, structure and metric."""
        key = _key(self._keeps)
        if key is None or not (self._keeps or self._folder.is_dir()):
            return decompose(weight, structure, metric=metric)
        path = self._folder / _name(weight, structure, metric)
        factors = self._read(path, key)
        if factors is None:
            factors = decompose(weight, structure, metric=metric)
            if self._keeps:
                with suppress(OSError, SafetensorError):  # then they are computed again
                    self._write(path, key, factors)
        return tuple(factor.to(weight.device) for factor in factors)

    def _read(self, path: Path, key: bytes) -> tuple[Tensor, ...] | None:
        """Return the factors in a file, None if there are none that this user has written."""
        try:
            if not path.is_file() or path.is_symlink() or path.stat().st_size > LIMIT:
                return None
            content = path.read_bytes()
            code, tensors = content[:CODE_BYTES], content[CODE_BYTES:]
            if not hmac.compare_digest(code, _code(key, path.name, tensors)):
                return None
            if self._keeps:
                path.touch()
            factors = load(tensors)
        except (OSError, SafetensorError):
            return None
        return tuple(factors[str(k)] for k in range(len(factors)))

    def _write(self, path: Path, key: bytes, factors: Sequence[Tensor]) -> None:
        if self._folder.is_symlink():  # which may lead out of the run folder
            return
        tensors = save({str(k): factor.cpu() for k, factor in enumerate(factors)})
        self._folder.mkdir(exist_ok=True)
        self._written += len(tensors)
        if self._written > LIMIT // 8:
            self._make_room(len(tensors))
            self._written = len(tensors)
        with replacing(path) as partial:
            partial.write_bytes(_code(key, path.name, tensors) + tensors)

    def _make_room(self, size: int) -> None:
        """Remove files, those that were not used for longest first, until there is room."""
        files = [(path, path.stat()) for path in self._folder.glob(NAMES)]
        excess = sum(stat.st_size for _, stat in files) + size + LIMIT // 8 - LIMIT
        for path, stat in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= stat.st_size


def _name(weight: Tensor, structure: Structure, metric: Metric | None) -> str:
    """Return the name of the file for what decides the factors."""
    digest = hashlib.sha256(f"{VERSION} {structure} {tuple(weight.shape)}".encode())
    for tensor in [weight] if metric is None else [weight, metric.output, metric.input]:
        digest.update(str(tensor.dtype).encode())
        numbers = tensor.detach().cpu().contiguous()
        digest.update(numbers.flatten().view(torch.uint8).numpy().data)
    return f"{digest.hexdigest()}.factors"


def _code(key: bytes, name: str, tensors: bytes) -> bytes:
    return hmac.digest(key, name.encode() + tensors, "sha256")


def _key(is_made: bool) -> bytes | None:
    """Return the secret of this user on this machine, None where there is none.

    Args:
        is_made: Whether it is made where it is missing, if the disk lets it.
    """
    path = Path(platformdirs.user_state_path("sekron")) / "secret"
    with suppress(OSError):
        key = path.read_bytes() if path.is_file() else b""
        if len(key) != CODE_BYTES and is_made:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(secrets.token_bytes(CODE_BYTES))
            key = path.read_bytes()  # another process may have been later
        return key if len(key) == CODE_BYTES else None
    return None
