"""Whole-network trials: how many there are, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.storages import BaseStorage


@dataclass(frozen=True, slots=True)
class Trials:
    """Whole-network trials.

    Args:
        number: Trials, those of earlier runs included.
        storage: Of the study.
        name: Prefix of the study's name.
        seed: Of the sampler.
    """

    number: int
    storage: BaseStorage
    name: str
    seed: int
