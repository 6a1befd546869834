"""Time the repair of a large network, and take its peak memory.

Weights and images are random, which matters for neither. The search is a quick one. It is kept in
`.runs`, so that its memory does not count either when the command is run again.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

import search
import sekron
from search.cli.sources import load_model
from search.folder.input_spec import InputSpec
from studies.training import RUNS

BATCH = 32


def main() -> None:
    """Search, apply and repair, and print seconds and peak memory."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = load_model(options.model).eval()
    shape = InputSpec.parse(options.input).shape[1:]
    result = search.run(
        model,
        torch.zeros(1, *shape),
        budget=search.Budget(flops=options.share),
        n_trials=0,
        max_sequence_length=2,
        run=RUNS / f"repair-{options.model.rpartition(':')[2]}-{options.input}",
        measure_seconds=0,
    )
    small = result.plan(search.Budget(flops=options.share)).apply(model)
    batches = torch.randn(options.images, *shape).split(BATCH)
    before = _peak()
    clock, processor = time.perf_counter(), time.process_time()
    outcome = sekron.repair(small, model, batches)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"{options.model} {options.input}, {result.budget}, {options.images} images: {outcome}")
    print(f"repair: {clock:.0f} s by the clock, {processor:.0f} s of the processor, ", end="")
    print(f"{options.threads} threads")
    print(f"peak memory of the process: {before:.2f} GiB before it, {_peak():.2f} GiB after it")


def _peak() -> float:
    """Return the most memory that this process has had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.repair.large", description=__doc__)
    parser.add_argument("model", nargs="?", default="torchvision.models:resnet18")
    parser.add_argument("--input", default="1x3x224x224")
    parser.add_argument("--share", type=float, default=0.25, help="of the FLOPs")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
