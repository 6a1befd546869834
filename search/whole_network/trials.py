"""Whole-network trials: how many there are, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.storages import BaseStorage

from search.workers.claims import Claims


@dataclass(frozen=True, slots=True)
class Trials:
    """Whole-network trials.

    Args:
        number: Trials, those of earlier runs included.
        storage: Of the study.
        name: Prefix of the study's name.
        seed: Of the sampler.
        claims: What this worker has in hand.
    """

    number: int
    storage: BaseStorage
    name: str
    seed: int
    claims: Claims
