"""Measure what a proposal costs besides its score, as the trials of one layer become many."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import optuna
import torch
from torch import nn

from search.folder.journal import open_journal
from search.per_layer.samplers import SAMPLERS
from search.per_layer.space import Space
from search.per_layer.study import LayerStudy
from sekron.rank_curves.curves import RankCurve, Spectra
from sekron.structures.families import Shape
from sekron.structures.geometry import Geometry

STOPS = (100, 1000, 2000, 3000, 4000)


class TimedSpectra(Spectra):
    """Spectra that know how long they have scored.

    Attributes:
        scored_s: Seconds of the processor.
    """

    scored_s = 0.0

    def curve(self, family: str, shapes: tuple[Shape, ...]) -> RankCurve:
        """Return the candidates of a factorization."""
        start = time.process_time()
        curve = super().curve(family, shapes)
        self.scored_s += time.process_time() - start
        return curve


def main() -> None:
    """Search one layer of random weights in a journal, and print milliseconds of the processor."""
    options = _options()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    weight = nn.Conv2d(options.channels, options.channels, 3).weight
    spectra = TimedSpectra(weight, (Geometry.of(tuple(weight.shape), (14, 14)),))
    print(f"{tuple(weight.shape)}, sampler {options.sampler}, milliseconds of the processor")
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "study.log"
        study = _opened(spectra, options.sampler, journal)
        study.run(0)
        before = 0
        for stop in (stop for stop in STOPS if stop <= options.trials):
            start, scored = time.process_time(), spectra.scored_s
            study.run(stop)
            spent, scored = time.process_time() - start, spectra.scored_s - scored
            per_trial = [1e3 * t / (stop - before) for t in (spent - scored, scored)]
            print(f"trials {before + 1} to {stop}: {per_trial[0]:.1f} a proposal, ", end="")
            print(f"{per_trial[1]:.1f} its score", flush=True)
            before = stop
        start = time.process_time()
        again = _opened(spectra, options.sampler, journal)
        taken = time.process_time() - start
        print(f"replay of {again.n_scored} structures: {taken:.2f} s of the processor")


def _opened(spectra: Spectra, sampler: str, journal: Path) -> LayerStudy:
    space = Space(tuple(spectra.plain.shape))
    storage = open_journal(journal)
    return LayerStudy("layer", spectra, space, sampler=sampler, storage=storage)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.search_speed.proposals", description=__doc__
    )
    parser.add_argument("--channels", type=int, default=64, help="in and out, of a 3x3 kernel")
    parser.add_argument("--sampler", choices=SAMPLERS, default="neighbour")
    parser.add_argument("--trials", type=int, default=STOPS[-1])
    return parser.parse_args()


if __name__ == "__main__":
    main()
