"""Compress networks as users bring them, and see whether anything breaks or goes unsaid."""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search
import sekron
from search.per_layer.space import Space
from sekron.forward.evaluation import evaluating
from sekron.forward.inputs import Inputs, as_arguments
from sekron.forward.tensors import tensors_in
from sekron.layers.factorized import Factorized
from sekron.network.copying import copy_of
from sekron.network.opening import opened
from sekron.profiling.count import count, count_flops, modules_alone
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.unsearched import matrices
from sekron.structures.families import clipped_ranks
from sekron.structures.structure import Structure
from studies.survey.made import more
from studies.survey.networks import NETWORKS

SHARE = 0.6
"""Of the FLOPs, that a plan is searched for."""

OMITTED = re.compile("norm|pool|upsample|lstm|^(mv|dot)$")
"""What torch's counter takes for free: normalisation, pooling, resizing, recurrence, products with
vectors."""

TOLERANCE = 1e-3
"""Between a network at full ranks and the original, relative to the largest value of an output."""


def main() -> None:
    """Survey the networks; a row that is in the table already is not computed again."""
    options = _options()
    frame = pd.read_csv(options.output) if options.output.exists() else pd.DataFrame()
    for name in options.networks:
        if not frame.empty and name in set(frame["network"]):
            continue
        torch.manual_seed(0)
        network, example = NETWORKS[name]()
        row = {"network": name, **survey(_enlivened(network.eval(), example), example)}
        print(row, flush=True)
        frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
        frame.to_csv(options.output, index=False)
    print(frame.to_string(index=False))


def survey(network: nn.Module, example: Inputs) -> dict[str, object]:
    """Return a row: shares, errors, and whether the plan holds, trains and comes back from disk."""
    start = time.perf_counter()
    measured = search.profile(network, example)
    row: dict[str, object] = {
        "inputs": str(as_arguments(example)),
        **_counted(network, example),
        "layers": len(measured.layers),
        "searched": len(measured.searched),
        "searched_share": _share(measured, measured.searched),
        "left_dense": _left_dense(measured),
        "unlisted": _unlisted(measured, network),
    }
    exact = sekron.Plan({x.name: full_rank(x) for x in measured.searched}).apply(network)
    error = _difference(exact, network, example)
    row |= {"full_rank_error": float(f"{error:.1e}"), "equal": error <= TOLERANCE}
    try:
        result = search.run(
            network,
            example,
            budget=search.Budget(flops=SHARE),
            n_trials=0,
            max_sequence_length=2,
            measure_seconds=0,
            progress=False,
        )
    except (search.InfeasibleBudget, ValueError) as error:
        row["refused"] = str(error)
    else:
        row |= _planned(result, network, example)
    row["seconds"] = round(time.perf_counter() - start)
    return row


def _enlivened(network: nn.Module, example: Inputs) -> nn.Module:
    """Give a network that was never trained an output that depends on all its layers."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # biases, heads and gains begin at zero
                parameter.normal_(std=0.1)
    if sekron.training.batch_norm.norms_with_statistics(network):
        sekron.recalibrate(network, [more(example, 8)])
    as_arguments(example).run(network)  # with gradients: as it is once it was trained
    return network


def _counted(network: nn.Module, example: Inputs) -> dict[str, object]:
    """Return fvcore's multiply-adds, torch's, and how many of fvcore's are of what torch omits."""
    counts = count(network, example)
    total = counts.by_module[""]
    omitted = sum(n for operator, n in counts.by_operator.items() if OMITTED.search(operator))
    counter = FlopCounterMode(display=False)
    with evaluating(network), modules_alone(), sdpa_kernel(SDPBackend.MATH), counter:
        as_arguments(example).run(network)
    by_torch = int(counter.get_total_flops()) // 2
    return {
        "mflops": round(total / 1e6, 1),
        "torch_mflops": round(by_torch / 1e6, 1),
        "omitted_by_torch": round(omitted / total, 4),
        "unexplained_flops": total - by_torch - omitted,
    }


def full_rank(layer: LayerProfile) -> Structure:
    """Return a structure of two factors at the rank at which it is exact."""
    family, shapes = min(
        Space(layer.block_shape, 2, ("chain",)).templates(), key=lambda point: _full_size(*point)
    )
    return Structure(family, shapes, clipped_ranks(family, shapes, [layer.params]), layer.groups)


def _full_size(family: str, shapes: tuple[tuple[int, ...], ...]) -> int:
    ranks = clipped_ranks(family, shapes, [10**9])
    return Structure(family, shapes, ranks).n_params


def _planned(result: search.SearchResult, network: nn.Module, example: Inputs) -> dict[str, object]:
    small = result.best.apply(network)
    counted, _ = count_flops(small, example)
    replaced = [layer for layer in result.profile.layers if layer.name in result.best]
    return {
        "replaced_share": _share(result.profile, replaced),
        "flops": round(counted / result.profile.flops, 4),
        "holds": counted == result.profile.totals(result.best)["flops"]
        and counted <= SHARE * result.profile.flops,
        "gradients": _gradients(small, network, example),
        "restored": _restored(small, network, example),
    }


def _gradients(small: nn.Module, network: nn.Module, example: Inputs) -> bool:
    """Whether a backward pass reaches every factor, and all else that it reached before."""
    reached = []
    for model in (copy_of(network), copy_of(small)):
        leaves = [t for t in _outputs(model, example) if t.requires_grad]
        torch.autograd.backward(torch.stack([t.square().mean() for t in leaves]).sum())
        reached.append({n for n, p in model.named_parameters() if p.grad is not None})
        factors = {
            f"{name}.{of}"
            for name, module in model.named_modules()
            if isinstance(module, Factorized)
            for of, _ in module.named_parameters()
        }
    before, after = reached
    replaced = {name for name, _ in network.named_parameters()} - set(small.state_dict())
    return factors <= after and before - replaced <= after


def _restored(small: nn.Module, network: nn.Module, example: Inputs) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        sekron.save(small, Path(folder) / "small.safetensors")
        again = sekron.load(network, Path(folder) / "small.safetensors")
    return _difference(again, small, example) == 0.0


def _difference(first: nn.Module, second: nn.Module, example: Inputs) -> float:
    """Return the largest difference of an output, relative to the largest value of that output."""
    with torch.no_grad():
        pairs = zip(_outputs(first, example), _outputs(second, example), strict=True)
        return max(
            float((a.double() - b).abs().max()) / max(float(b.abs().max()), 1e-30) for a, b in pairs
        )


def _outputs(network: nn.Module, example: Inputs) -> list[Tensor]:
    return tensors_in(as_arguments(example).run(network))


def _share(
    measured: NetworkProfile, layers: list[LayerProfile] | tuple[LayerProfile, ...]
) -> float:
    return round(sum(layer.flops for layer in layers) / measured.flops, 4)


def _left_dense(measured: NetworkProfile) -> str:
    """Return the reasons with their shares of the FLOPs, the heaviest first."""
    shares: Counter[str] = Counter()
    for layer in measured.layers:
        if layer.reason:
            shares[layer.reason.split(":")[0].split(",")[0]] += layer.flops
    shares["without a weight"] = measured.flops - sum(layer.flops for layer in measured.layers)
    return "; ".join(f"{why} {n / measured.flops:.1%}" for why, n in shares.most_common() if n)


def _unlisted(measured: NetworkProfile, network: nn.Module) -> int:
    """Return how many parameters with more than one axis are in no layer that is listed."""
    network = opened(network)
    listed = {
        parameter
        for layer in measured.layers
        for parameter in network.get_submodule(layer.name).parameters(recurse=bool(layer.calls))
    }
    real = {parameter for module in network.modules() for parameter in matrices(module)}
    return len(real - listed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.survey", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
