"""Verify: every check on a compressed network, and on the dense one for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from search.clock.race import race, synchronized
from search.clock.sides import Run
from search.verification.checks import CHECKS, Case, Check, Outcome
from sekron.export.difference import largest_difference
from sekron.export.packages import quiet
from sekron.export.refusal import CannotRun, reason_of
from sekron.forward.evaluation import output_of, said, untouched
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.forward.tensors import tensors_in
from sekron.scalars import number

WORSE = 4.0
"""Times the difference of the dense network, at which that of the compressed one is no worse."""

BEYOND = 10.0
"""Times the tolerance, at which a network does not work, whatever the dense one does."""

EXAMPLE = "the example input"
"""What it is called in an error."""

PRECISION = 0.03
"""Of the time over that of the dense network."""

Status = Literal["works", "fails", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        status: Skipped is what does not work for the dense network either, or is not installed.
        difference: Largest difference of the outputs (of gradients, where it trains), relative to
            the largest number; None where the check failed.
        dense_difference: The same of the dense network.
        time_over_dense: Time of the compressed network over that of the dense one, run the same
            way, in turn; None where that was not measured.
        reason: Why it does not work; empty where it does.
    """

    check: str
    status: Status
    difference: float | None = None
    dense_difference: float | None = None
    time_over_dense: float | None = None
    reason: str = ""


def verify(
    small: nn.Module, model: nn.Module, example_input: Inputs, *, measure_seconds: float = 2.0
) -> list[Finding]:
    """Use a compressed network in every way that the dense one is used in, each for real.

    It is saved and loaded, copied, run on more and on larger images, with channels last, in
    bfloat16 and under autocast, compiled, exported, run in ONNX Runtime and OpenVINO, and trained
    by two processes. A check that fails stops no other. The two processes import the main module
    again, so that a script must call this behind `if __name__ == "__main__":`.

    Args:
        small: Compressed; left as it was.
        model: The dense network; left as it was, and its weights do not matter.
        example_input: What both take: a tensor, a tuple or a mapping.
        measure_seconds: Limit for the time of each check; 0 measures nothing.

    Returns:
        One finding for each check, in their order.

    Raises:
        ValueError: If one of the networks does not run on the example input at all, or
            `measure_seconds` is no limit.
    """
    measure_seconds = number("measure_seconds", measure_seconds)
    if not measure_seconds >= 0:
        raise ValueError(f"`measure_seconds` must be at least 0, got {measure_seconds}.")
    arguments = example_of(example_input, model)
    with untouched(small, model):
        ours, theirs = (_case(network, model, arguments) for network in (small, model))
        return [
            _finding(name, check, ours, theirs, measure_seconds) for name, check in CHECKS.items()
        ]


def _case(network: nn.Module, fresh: nn.Module, arguments: Arguments) -> Case:
    expected, again = (tensors_in(output_of(network, arguments, EXAMPLE)) for _ in range(2))
    return Case(network, fresh, arguments, expected, largest_difference(again, expected))


def _finding(name: str, check: Check, small: Case, dense: Case, seconds: float) -> Finding:
    ours, theirs = _outcome(check, small), _outcome(check, dense)
    difference, its_difference = (
        None if isinstance(outcome, str) else outcome.difference for outcome in (ours, theirs)
    )
    why = theirs if isinstance(theirs, str) else _why_not(check, dense, theirs.difference)
    worse = 0.0 if why else WORSE * (its_difference or 0.0)
    most = max(check.tolerance, min(worse, BEYOND * check.tolerance))
    if why and (difference is None or not difference <= most):
        reason = f"nor for the dense network: {why}"
        return Finding(name, "skipped", difference, its_difference, reason=reason)
    if isinstance(ours, str):
        return Finding(name, "fails", None, its_difference, reason=ours)
    if not ours.difference <= most:
        reason = f"the outputs must be within {most:.1e}, but differ by {ours.difference:.1e}"
        reason += _random(check, small)
        return Finding(name, "fails", ours.difference, its_difference, reason=reason)
    if not (seconds > 0 and ours.run and isinstance(theirs, Outcome) and theirs.run):
        return Finding(name, "works", ours.difference, its_difference)
    time = _time(((theirs.run, dense), (ours.run, small)), seconds)
    if isinstance(time, str):
        reason = f"timed, run after run: {time}"
        return Finding(name, "fails", ours.difference, its_difference, reason=reason)
    return Finding(name, "works", ours.difference, its_difference, time)


def _why_not(check: Check, dense: Case, difference: float) -> str:
    """Return why the dense network itself does not work there; nothing where it does."""
    random = _random(check, dense)
    if math.isinf(difference) and not random:
        return "its outputs have other shapes or kinds of number there, or are NaN"
    if random or difference > BEYOND * check.tolerance:
        return f"its outputs differ by {difference:.1e} there{random}"
    return ""


def _random(check: Check, case: Case) -> str:
    """Return what to say of a network that draws random numbers; nothing where it does not."""
    if case.again <= check.tolerance:
        return ""
    return f"; it draws random numbers in evaluation: two plain runs differ by {case.again:.1e}"


def _time(sides: Sequence[tuple[Run, Case]], seconds: float) -> float | str:
    """Return the time of the second side over that of the first; else why one did not go on."""
    runs = [synchronized(run, case.arguments, case.network) for run, case in sides]
    try:
        with torch.random.fork_rng():
            times = race(runs, PRECISION, seconds)
    except Exception as error:  # whatever a network raises that has run before
        return reason_of(error)
    return float(np.median(times[1] / times[0]))


def _outcome(check: Check, case: Case) -> Outcome | str:
    """Try a check; return why it did not go where it did not."""
    try:
        with quiet(), torch.random.fork_rng():
            return check.try_(case)
    except (CannotRun, ImportError) as error:
        return said(error)
    except Exception as error:  # the check is whether there is any
        return reason_of(error)
