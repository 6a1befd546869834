"""Names of tensors and layers: what wrappers have put into them, in a file or in a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator

WRAPPERS = frozenset({"module", "_orig_mod"})
"""What `DataParallel`, `DistributedDataParallel` and `torch.compile` call the network in them."""


def fitted_names(found: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Return name in a file -> name in the network, for all names in the file.

    The names stay as they are, or lose what wrappers have put into them, at any place and on either
    side, or also the start that all of them share: whichever of these makes most of them names of
    the network. A name that then is none stays as it is.

    Args:
        found: Names in the file.
        wanted: Names in the network.

    Example:
        >>> fitted_names(["module.0.weight", "module.0.bias"], ["0.weight", "0._orig_mod.bias"])
        {'module.0.weight': '0.weight', 'module.0.bias': '0._orig_mod.bias'}
    """
    known = set(wanted)
    best = {name: name for name in found}
    most = len(known & best.keys())
    for names in _renamings(found, wanted):
        n_fitting = len(known & set(names.values()))
        if n_fitting > most and len(set(names.values())) == len(names):
            best, most = names, n_fitting
    return best


def _renamings(found: Collection[str], wanted: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield what names may turn into; nothing where two in the network would be the same."""
    bare_found = {name: _bare(name) for name in found}
    bare_wanted = {_bare(name): name for name in wanted}
    if len(bare_wanted) < len(wanted):
        return
    for start in _starts(bare_found.values()):
        for other in _starts(bare_wanted):
            yield {
                name: bare_wanted.get(other + bare.removeprefix(start), name)
                for name, bare in bare_found.items()
            }


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _starts(names: Collection[str]) -> Iterator[str]:
    """Yield what all names start with, whole parts only: nothing, the first part, the first two."""
    yield ""
    rows = [name.split(".")[:-1] for name in names]
    start = ""
    for parts in zip(*rows, strict=False):
        if len(set(parts)) > 1:
            return
        start += f"{parts[0]}."
        yield start
