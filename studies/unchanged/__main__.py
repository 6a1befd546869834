"""Compare the searches of this checkout with those of an older commit, to the last bit.

The errors of plans are told over those of then: least and largest, over ten budgets. Exit code 0 if
nothing differs, 1 if anything does, 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path

import torch

from studies.digits import digits
from studies.glyphs import glyphs, trained_resnet
from studies.networks import resnet20
from studies.training import trained
from studies.unchanged import probe
from studies.unchanged.probe import CASES, ERRORS, Row

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 5
N_IMAGES = 512
"""Training images that the calibrated search looks at, without their labels."""

# Python's hash decides the order of a set, and at ec39a19 that of some ranks within the factors;
# under this seed they stand in their natural order.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
"""Of both probes."""


def main() -> None:
    """Search every case in both checkouts; print a line of each as soon as both are done."""
    parser = _parser()
    options = parser.parse_args()
    is_same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            extract(options.commit, folder / "old")
            write_inputs(folder / "inputs.pt", {CASES[case].weights for case in options.cases})
            print(
                _line("case", "candidates", "front", "errors", f"to {options.commit}"), flush=True
            )
            for case in options.cases:
                now, was = (outcome(root, case, folder) for root in (ROOT, folder / "old"))
                difference = first_difference(now, was)
                n_candidates, n_members = len(now["candidates"]), len(now["front"])
                counts, errors = (f"{n_candidates:,}", f"{n_members:,}"), error_ratios(now, was)
                print(_line(case, *counts, errors, difference or "same"), flush=True)
                is_same = is_same and difference is None
        except ValueError as error:
            parser.exit(2, f"{error}\n")
    sys.exit(not is_same)


def extract(commit: str, folder: Path) -> None:
    """Write the files of a commit of this repository into a new folder.

    Args:
        commit: Anything that git takes for one.
        folder: Where to.

    Raises:
        ValueError: If there is no such commit.
    """
    archive = ["git", "-C", str(ROOT), "archive", "--format=tar", "--end-of-options", commit]
    done = subprocess.run(archive, check=False, capture_output=True)
    if done.returncode != 0:
        raise ValueError(
            f"the commit must be one of this repository, got {commit!r}: {_last(done.stderr)}"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")


def write_inputs(path: Path, names: Collection[str]) -> None:
    """Write what both sides are given: trained networks, and images of digits without labels.

    Args:
        path: For `torch.load`; the weights as state dicts.
        names: Of the networks: on digits, trained in short, or on glyphs.
    """
    split, weights = digits(), {}
    if "digits" in names:
        data = split.train_images, split.train_labels
        weights["digits"] = trained("resnet20", resnet20, *data, epochs=EPOCHS).state_dict()
    if "glyphs" in names:
        weights["glyphs"] = trained_resnet(glyphs()).state_dict()
    # A view would be saved with all the images that it looks at.
    batches = [images.clone() for images in split.train_images[:N_IMAGES].split(128)]
    torch.save({"weights": weights, "calibration": batches}, path)


def outcome(checkout: Path, case: str, folder: Path) -> dict[str, list[Row]]:
    """Run the probe of this checkout in another one, on one thread and under one hash seed.

    Args:
        checkout: Whose packages are imported.
        case: One of `CASES`.
        folder: Has the inputs.

    Returns:
        What `probe.searched` returned there.

    Raises:
        ValueError: If it failed.
    """
    output = folder / "outcome.json"
    done = subprocess.run(
        [sys.executable, probe.__file__, checkout, case, folder / "inputs.pt", output],
        check=False,
        capture_output=True,
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(checkout)},
    )
    if done.returncode != 0:
        side = "this checkout" if checkout == ROOT else "the older commit"
        raise ValueError(f"{case} must run on both sides, but in {side}: {_last(done.stderr)}")
    found: dict[str, list[Row]] = json.loads(output.read_text(encoding="utf-8"))
    return found


def error_ratios(now: dict[str, list[Row]], was: dict[str, list[Row]]) -> str:
    """Return the least and the largest error of a plan over that of then, at budgets of both.

    Example:
        >>> now, was = {"flops ≤ 50%": (1.0).hex()}, {"flops ≤ 50%": (2.0).hex()}
        >>> error_ratios({"errors": [now]}, {"errors": [was]})
        '0.5000–0.5000'
    """
    (here,), (there,) = now[ERRORS], was[ERRORS]
    pairs = [(float.fromhex(here[b]), float.fromhex(there[b])) for b in here if b in there]
    ratios = [new / old for new, old in pairs if math.isfinite(old)]
    return f"{min(ratios):.4f}–{max(ratios):.4f}"


def first_difference(now: dict[str, list[Row]], was: dict[str, list[Row]]) -> str | None:
    """Return where two outcomes differ first and how, or None if they do not.

    Args:
        now: Tables of rows of cells, all as text.
        was: The same of the other side.

    Returns:
        The table, the row and the column, and what stands there on the two sides.

    Example:
        >>> first_difference({"front": [{"flops": "13"}]}, {"front": [{"flops": "11"}]})
        'front, row 0, flops: 13, was 11'
        >>> first_difference({"front": []}, {"front": []})
    """
    for table in {**was, **now}:
        pairs = zip_longest(now.get(table, []), was.get(table, []))
        for row, (new, old) in enumerate((new or {}, old or {}) for new, old in pairs):
            for column in {**old, **new}:
                here, there = new.get(column, "nothing"), old.get(column, "nothing")
                if here != there:
                    return f"{table}, row {row}, {column}: {here}, was {there}"
    return None


def _line(case: str, candidates: str, front: str, errors: str, difference: str) -> str:
    width = max(map(len, CASES))
    return f"{case:{width}}  {candidates:>10}  {front:>5}  {errors:>13}  {difference}"


def _last(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.unchanged", description=__doc__)
    parser.add_argument("commit", metavar="COMMIT", help="the older one")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    return parser


if __name__ == "__main__":
    main()
