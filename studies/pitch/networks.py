"""CREPE, dense and compressed to shares of its FLOPs, without a pitch that anybody wrote down."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import search
import sekron
from search.front.result import SearchResult
from studies.pitch.tones import noisy, tones
from studies.training import RUNS

BUDGETS = tuple(search.Budget(flops=share) for share in (0.5, 0.25, 0.15))
N_TRIALS = 10
"""Structures proposed for a layer: in a metric, one of 8 million numbers takes seconds."""

N_CALIBRATION, BATCH = 96, 32
NOISIEST, CLEANEST = 0.0, 30.0
"""Signal-to-noise ratios of the calibration, in dB; each tone has one of its own."""


def calibration() -> tuple[Tensor, ...]:
    """Return batches of frames with as much noise as comes, without their pitches."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(N_CALIBRATION, 1, generator=generator)
    samples, _ = tones(N_CALIBRATION, seed=0)
    snr_db = NOISIEST + (CLEANEST - NOISIEST) * drawn
    return noisy(samples, snr_db, seed=0).split(BATCH)


def searched(model: nn.Module) -> SearchResult:
    """Search CREPE, or read the search that was done."""
    return search.run(
        model,
        torch.zeros(1, 1024),
        budget=BUDGETS[0],
        n_trials=N_TRIALS,
        run=RUNS / "pitch-crepe",
        measure_seconds=0,
        calibration=calibration(),
    )


def networks(model: nn.Module, result: SearchResult) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what is done, the budget and the network; what is repaired once is kept.

    Args:
        model: The dense network, which comes first.
        result: Of its search.
    """
    yield "dense", "", model
    for budget in BUDGETS:
        plan = result.plan(budget)
        yield "decomposed", str(budget), plan.apply(model)
        yield "repaired", str(budget), _repaired(model, plan)


def _repaired(model: nn.Module, plan: sekron.Plan) -> nn.Module:
    path = RUNS / "pitch-crepe-repaired" / f"{plan.digest[:16]}.safetensors"
    if path.exists():
        return sekron.load(model, path).eval()
    small, start = plan.apply(model), time.process_time()
    print(sekron.repair(small, model, calibration(), output="values", progress=False))
    print(f"repair: {time.process_time() - start:.0f} s of the processor", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    sekron.save(small, path)
    return small.eval()
