"""A network of several inputs gets all of them everywhere: the oracle is one that packs them."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import search
import sekron
from baselines import compare
from sekron.training.recipe import Recipe

QUIET = {"progress": False}

pytestmark = pytest.mark.usefixtures("few_steps")


class Scaled(nn.Module):
    """Takes images and, if it is given, a number for each of them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.other = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x, scale=None):
        y = self.norm(self.stem(x)).relu()
        if scale is not None:
            y = y * scale[:, None, None, None]
        return self.head(self.other(self.body(y)).relu().mean((2, 3)))


class Packed(Scaled):
    """The same, whose images carry the number as a fourth channel."""

    def forward(self, x):
        return super().forward(x[:, :3], x[:, 3, 0, 0])


X = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
SCALES = torch.linspace(0.2, 5.0, 24)
LABELS = torch.arange(24) % 5
PACKED = torch.cat([X, SCALES[:, None, None, None].expand(-1, 1, 6, 6)], dim=1)

HANDED = {
    "nested": lambda x, scale: ((x, scale), None),
    "named": lambda x, scale: {"x": x, "scale": scale},
    "named with labels": lambda x, scale: ({"scale": scale, "x": x}, 0),
}


def split(handed=None):
    if handed is None:
        return list(PACKED.split(8))
    return [HANDED[handed](*pair) for pair in zip(X.split(8), SCALES.split(8), strict=True)]


def example(handed):
    if handed is None:
        return PACKED[:2]
    batch = HANDED[handed](X[:2], SCALES[:2])
    return batch[0] if isinstance(batch, tuple) else batch


def both(handed):
    """A network of each kind, with equal weights."""
    torch.manual_seed(0)
    packed, scaled = Packed(), Scaled()
    scaled.load_state_dict(packed.state_dict())
    return (packed, None), (scaled, handed)


def searched(network, handed, **options):
    return search.run(
        network,
        example(handed),
        budget=search.Budget(flops=0.7),
        n_trials=2,
        max_sequence_length=2,
        measure_seconds=0,
        **QUIET,
        **options,
    )


def assert_same_states(networks):
    first, second = (network.state_dict() for network in networks)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("handed", HANDED)
def test_search_calibration_and_repair_see_every_input(handed):
    fronts, repaired = [], []
    for network, kind in both(handed):
        result = searched(network, kind, calibration=split(kind))
        fronts.append(result.pareto_front().drop(columns="plan"))
        small = result.best.apply(network)
        sekron.recalibrate(small, split(kind))
        outcome = sekron.repair(small, network, split(kind), **QUIET)
        ratios = [
            sekron.refit(small, network, split(kind), steps=3, **QUIET),
            sekron.tune(small, network, split(kind), steps=3, **QUIET),
        ]
        assert max(ratios) <= 1.0
        assert outcome.after < outcome.before
        repaired.append(small)
    assert fronts[0].equals(fronts[1])
    assert_same_states(repaired)


@pytest.mark.parametrize("handed", HANDED)
def test_scores_rivals_and_the_clock_see_every_input(handed):
    tables = []
    for network, kind in both(handed):
        inputs = example(kind)
        seen = []

        def score(candidate, kind=kind, seen=seen):
            seen.append(candidate.other.running_mean.clone())
            return float(seen[-1].sum())

        searched(network, kind, calibration=split(kind), score=score, n_network_trials=1)
        frame = compare(
            network,
            inputs,
            search.Budget(flops=0.7),
            methods=["channel_svd", "activation_svd"],
            score=score,
            calibration=split(kind),
            **QUIET,
        )
        tables.append((frame.drop(columns="seconds"), torch.stack(seen)))
        assert search.latency(network, inputs, max_seconds=0.01).median_ms > 0.0
    assert tables[0][0].equals(tables[1][0])
    assert torch.equal(tables[0][1], tables[1][1])


@pytest.mark.usefixtures("fresh_process")
def test_fine_tuning_sees_every_input():
    loaders = {
        None: list(zip(PACKED, LABELS, strict=True)),
        "flat": list(zip(X, SCALES, LABELS, strict=True)),
        "nested": [((x, s), y) for x, s, y in zip(X, SCALES, LABELS, strict=True)],
        "named": [({"x": x, "scale": s}, y) for x, s, y in zip(X, SCALES, LABELS, strict=True)],
    }
    (packed, _), _ = both(None)
    plan, trained = searched(packed, None).best, []
    for kind, data in loaders.items():
        (packed, _), (scaled, _) = both(kind)
        network = packed if kind is None else scaled
        small = plan.apply(network)
        recipe = Recipe(epochs=1, learning_rate=0.01)
        sekron.finetune(small, DataLoader(data, 8), dense=network, recipe=recipe, **QUIET)
        trained.append(small)
    for other in trained[1:]:
        assert_same_states([trained[0], other])


def test_what_could_be_a_label_or_an_input_is_refused():
    (_, _), (network, _) = both("named")
    small = searched(network, "named").best.apply(network)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    batches = list(zip(X.split(8), SCALES.split(8), strict=True))
    for function in (
        lambda: sekron.recalibrate(small, batches),
        lambda: sekron.repair(small, network, batches, **QUIET),
        lambda: sekron.refit(small, network, batches, **QUIET),
        lambda: sekron.tune(small, network, batches, steps=1, **QUIET),
    ):
        with pytest.raises(ValueError, match="which of their 2 entries are inputs"):
            function()
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name])


def test_calibration_must_hold_what_the_example_does():
    (_, _), (network, _) = both("named")
    with pytest.raises(ValueError, match=r"`calibration` must hold what the example input does, x"):
        searched(network, "named", calibration=list(X.split(8)))
