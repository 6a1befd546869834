"""Every public function on half and double precision: finite, of the right dtype, as in single."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import baselines
import search
import sekron
from sekron import Plan, Structure, decompose, reconstruct, refine, relative_error
from sekron.calibration.metrics import metric_of, metrics_of
from sekron.calibration.moments import moments
from sekron.calibration.sensitivity import divergences
from sekron.decomposition.errors import fitted_error
from sekron.decomposition.metric import Metric
from sekron.decomposition.narrow import narrowed
from sekron.forward.inputs import as_arguments
from sekron.network import precision
from sekron.network.precision import in_single_precision
from sekron.training.factor_fit import fit_factors
from sekron.training.funnel import funnel

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float64)
FAMILIES = {
    "chain": "chain:7x1x3x1,1x6x1x3@5",
    "sekron": "sekron:7x1x1x1,1x3x3x1,1x2x1x3@4,3",
    "ring": "ring:7x1x1x1,1x6x1x1,1x1x3x3@2,3,2",
    "cp": "cp:7x1x1x1,1x6x1x1,1x1x3x3@6",
    "tucker": "tucker:7x1x1x1,1x6x1x1,1x1x3x3@4,3",
}
PLAN = Plan(
    {
        "body": Structure.parse("chain:8x1x3x1,1x8x1x3@6"),
        "dead": Structure.parse("sekron:8x1x1x1,1x8x1x1@3"),
        "wide": Structure.parse("cp:8x1x1x1,1x8x1x1,1x1x3x3@8"),
        "hidden": Structure.parse("chain:8x1,1x8@3"),
    }
)


def rounding(dtype):
    """Return the rounding of a dtype, at least that of single precision, which it is held to."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype)[6:])
def dtype(request):
    return request.param


@pytest.fixture
def seed(dtype):
    """Each dtype has other numbers."""
    return DTYPES.index(dtype)


def falling(weight, orders=4.0):
    """Give a weight singular values that fall by so many orders of magnitude."""
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    fall = 10.0 ** (-orders * torch.arange(len(s)) / len(s))
    return (u * (1.5 * s.norm() * fall / fall.norm()) @ v).reshape(weight.shape)


class Net(nn.Module):
    """Falling spectra, and a layer of zeros that is added to what it gets."""

    def __init__(self, norm):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dead = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 8, 3)
        self.hidden, self.last = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.body(self.first(x).relu())).relu()
        x = self.wide(x + self.dead(x)).relu().mean((2, 3))
        return self.last(self.hidden(x).relu())


def network(dtype, seed, norm=True):
    torch.manual_seed(seed)
    model = Net(norm)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(falling(layer.weight))
        model.dead.weight.zero_()
        model.dead.bias.zero_()
        if norm:
            model.norm.running_var.fill_(0.5)
    return model.eval().to(dtype)


def images(dtype, seed=0, n_batches=3):
    generator = torch.Generator().manual_seed(100 + seed)
    return [torch.randn(8, 3, 9, 9, generator=generator).to(dtype) for _ in range(n_batches)]


def single(value):
    """Return the same numbers in single precision, or in double where they were that."""
    if isinstance(value, list):
        return [single(x) for x in value]
    if value.dtype == torch.float64 if isinstance(value, torch.Tensor) else False:
        return value
    if isinstance(value, nn.Module):
        is_double = next(value.parameters()).dtype == torch.float64
        return copy.deepcopy(value) if is_double else copy.deepcopy(value).float()
    return value.float()


def check(model, dtype):
    """All that floats is finite and of that dtype."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            assert tensor.dtype == dtype
            assert torch.isfinite(tensor).all()


@torch.no_grad()
def check_equal(model, oracle, dtype):
    """The network is what another has become, but for the last digit."""
    check(model, dtype)
    for name, tensor in model.state_dict().items():
        wanted = oracle.state_dict()[name]
        if "weights." not in name:  # of which powers of two may have moved from one to another
            assert torch.equal(tensor, wanted.to(tensor.dtype))
    for layer, other in zip(model.modules(), oracle.modules(), strict=True):
        if isinstance(layer, sekron.layers.factorized.Factorized):
            size = float(other.dense_weight().norm())
            both = [
                reconstruct([f.double() for f in x.factors()], x.structure) for x in (layer, other)
            ]
            lost = float((both[0] - both[1]).norm())
            assert lost <= 4 * rounding(dtype) * size + 1e-12


@pytest.mark.parametrize("scale", [1.0, 1e-3, 2e4], ids=lambda s: f"times-{s:g}")
@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_a_weight(family, scale, dtype, seed):
    torch.manual_seed(seed)
    structure = Structure.parse(FAMILIES[family])
    weight = (scale * falling(torch.randn(7, 6, 3, 3) / 6)).to(dtype)
    exact = weight.double()
    wanted = relative_error(exact.float(), structure)
    assert relative_error(weight, structure) == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    factors = decompose(weight, structure)
    refined = refine(weight, factors, structure)
    for found in (factors, refined):
        assert all(factor.dtype == dtype and torch.isfinite(factor).all() for factor in found)
        error = fitted_error(weight, found, structure)
        assert error <= wanted + 4 * rounding(dtype)
    assert fitted_error(weight, factors, structure) >= wanted - 4 * rounding(dtype)
    rebuilt = reconstruct(factors, structure)
    assert rebuilt.dtype == dtype
    assert float((rebuilt.double() - exact).norm() / exact.norm()) <= wanted + 8 * rounding(dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_zeros(family, dtype):
    structure, weight = Structure.parse(FAMILIES[family]), torch.zeros(7, 6, 3, 3, dtype=dtype)
    factors = refine(weight, decompose(weight, structure), structure)
    assert all(f.dtype == dtype and torch.isfinite(f).all() for f in factors)
    assert not reconstruct(factors, structure).any()
    assert relative_error(weight, structure) == 0.0


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e7])
@pytest.mark.parametrize("family", FAMILIES)
def test_factors_in_a_metric_of_any_size(family, size, dtype, seed):
    """Taken out of the metric, some factors are as large as the metric is small."""
    torch.manual_seed(seed)
    structure = Structure.parse(FAMILIES[family])
    weight = falling(torch.randn(7, 6, 3, 3) / 6).to(dtype)
    sides = [torch.randn(n, n).double() for n in (7, 6)]
    metric = Metric(*(size * (a @ a.T / len(a) + 0.1 * torch.eye(len(a))) for a in sides))
    factors = decompose(weight, structure, metric=metric)
    assert all(factor.dtype == dtype and torch.isfinite(factor).all() for factor in factors)
    wanted = relative_error(weight.float(), structure, metric)
    condition = max(float(torch.linalg.cond(m)) for m in (metric.output, metric.input))
    found = fitted_error(weight, factors, structure, metric)
    assert found == pytest.approx(wanted, abs=4 * rounding(dtype) * condition)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
def test_a_layer_in_half_is_fitted_as_in_single(size, dtype, seed):
    layers = []
    for kind in (dtype, torch.float32):
        torch.manual_seed(seed)
        target = falling(torch.randn(7, 6, 3, 3) / 6).to(dtype)
        structure = Structure.parse(FAMILIES["chain"])
        conv = nn.Conv2d(6, 7, 3).to(dtype)
        layer = sekron.SeKronConv2d.from_conv2d(conv, structure).to(kind)
        sides = [size * torch.rand(n).double() for n in (7, 6)]
        layers.append((layer, fit_factors(layer, target.to(kind), Metric(*sides), 40)))
    (fitted, (before, after)), (_, (_, wanted)) = layers
    assert after < before
    assert after == pytest.approx(wanted, abs=8 * rounding(dtype))
    check(fitted, dtype)


FUNCTIONS = {
    "recalibrate": lambda small, _, batches: sekron.recalibrate(small, batches),
    "refit": lambda *args: sekron.refit(*args, steps=15, progress=False),
    "repair": lambda *args: str(sekron.repair(*args, progress=False)),
    "tune": lambda *args: sekron.tune(*args, steps=8, progress=False),
}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no-norm"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_changes_a_network_does_so_as_in_single_precision(name, norm, dtype, seed):
    if name == "recalibrate" and not norm:
        pytest.skip("there is nothing to recalibrate")
    dense = network(dtype, seed, norm)
    small, before = PLAN.apply(dense), copy.deepcopy(dense)
    oracle, teacher = single(small), single(dense)
    found = FUNCTIONS[name](small, dense, images(dtype, seed))
    wanted = FUNCTIONS[name](oracle, teacher, single(images(dtype, seed)))
    assert found == wanted
    check_equal(small, oracle, dtype)
    assert all(
        torch.equal(a, b) for a, b in zip(dense.parameters(), before.parameters(), strict=True)
    )
    with torch.no_grad():
        output = small(images(dtype)[0])
    assert output.dtype == dtype
    assert torch.isfinite(output).all()


def test_averages_over_many_batches_do_not_stand_still(dtype):
    model = network(dtype, 0)
    with torch.no_grad():  # what comes late is larger than what comes first
        batches = [(1 + 0.05 * k) * x for k, x in enumerate(images(dtype, n_batches=60))]
    oracle = single(model)
    sekron.recalibrate(oracle, single(batches))
    sekron.recalibrate(model, iter(batches))
    check_equal(model, oracle, dtype)


def test_a_statistic_beyond_the_dtype_is_refused():
    model = network(torch.float16, 0)
    with torch.no_grad():
        model.body.weight.mul_(200.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"must fit into torch\.float16, whose largest number is 65504"
    ):
        sekron.recalibrate(model, [20 * x for x in images(torch.float16)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_moments_metrics_and_divergences(dtype, seed):
    model, batches = network(dtype, seed), images(dtype, seed)
    names = [*PLAN, "last"]
    results = []
    for dense, inputs in ((model, batches), (single(model), single(batches))):
        collected = moments(dense, names, inputs)
        weights = {name: dense.get_submodule(name).weight for name in names}
        metrics = metrics_of(weights, collected)
        found = divergences(dense, metrics, [as_arguments(x) for x in inputs])
        results.append((collected, metrics, found))
    (collected, metrics, found), wanted = results
    for name in names:
        for side in ("gradients", "inputs"):
            assert torch.equal(getattr(collected[name], side), getattr(wanted[0][name], side))
        assert metrics[name].sensitivity == pytest.approx(wanted[1][name].sensitivity, rel=1e-6)
        assert found[name] == wanted[2][name]
        assert torch.isfinite(metric_of(collected[name]).output).all()
    check(model, dtype)


def test_gradients_that_vanish_in_half_are_seen():
    """The probabilities of a sure network are so near to 0 and 1 that half rounds them there."""
    model = network(torch.float16, 0)
    with torch.no_grad():
        model.last.weight.mul_(1e-3)
        model.hidden.weight.mul_(1e-2)
    collected = moments(model, ["body"], images(torch.float16), output="logits")
    assert collected["body"].gradients.any()


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
def test_a_search_and_its_plan(calibrated, dtype):
    model, batches = network(dtype, 1), images(dtype, 1)
    results = []
    for dense, inputs in ((model, batches), (single(model), single(batches))):
        results.append(
            search.run(
                dense,
                inputs[0],
                budget=search.Budget(flops=0.7),
                n_trials=2,
                max_sequence_length=2 if calibrated else 3,
                measure_seconds=0,
                calibration=inputs if calibrated else None,
                progress=False,
            )
        )
    ours, wanted = (result.candidates() for result in results)
    assert list(ours["structure"].map(str)) == list(wanted["structure"].map(str))
    assert ours["error"].to_numpy() == pytest.approx(wanted["error"].to_numpy(), abs=1e-6)
    small = results[0].best.apply(model)
    check(small, dtype)
    with torch.no_grad():
        assert torch.isfinite(small(batches[0])).all()
        outputs = (
            small(batches[0]).double(),
            results[1].best.apply(single(model))(single(batches[0])).double(),
        )
    torch.testing.assert_close(*outputs, rtol=40 * rounding(dtype), atol=40 * rounding(dtype))


def test_a_saved_network(dtype, tmp_path):
    small = PLAN.apply(network(dtype, 0))
    sekron.save(small, tmp_path / "small")
    for device in ("cpu", "meta"):
        again = sekron.load(network(dtype, 1).to(device), tmp_path / "small")
        check(again, dtype)
        assert all(torch.equal(t, small.state_dict()[n]) for n, t in again.state_dict().items())


RIVALS = {
    "cp": lambda w: baselines.cp(w, 5, n_iter_max=20),
    "tensor_train": lambda w: baselines.tensor_train(w, (3, 4, 2)),
    "tensor_ring": lambda w: baselines.tensor_ring(w, (2, 2, 2, 2)),
    "tucker": lambda w: baselines.tucker(w, (3, 3, 2, 2)),
}


@pytest.mark.parametrize("scale", [1.0, 1e-3, 2e4], ids=lambda s: f"times-{s:g}")
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_of_a_weight(name, scale, dtype, seed):
    torch.manual_seed(seed)
    weight = (scale * falling(torch.randn(7, 6, 3, 3) / 6)).to(dtype)
    structure, factors = RIVALS[name](weight)
    same, wanted = RIVALS[name](single(weight))
    assert structure == same
    assert all(factor.dtype == dtype and torch.isfinite(factor).all() for factor in factors)
    errors = [fitted_error(weight, found, structure) for found in (factors, wanted)]
    assert errors[0] == pytest.approx(errors[1], abs=8 * rounding(dtype))


# Both halves are decomposed alike.
@pytest.mark.usefixtures("few_ranks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_every_rival_method(dtype):
    model, batches = network(dtype, 0), images(dtype)
    frames = [
        baselines.compare(
            dense, inputs[0], search.Budget(flops=0.8), calibration=inputs, max_seconds=60
        )
        for dense, inputs in ((model, batches), (single(model), single(batches)))
    ]
    ours, wanted = (f.sort_values(["method", "ranks_by"]).reset_index() for f in frames)
    assert list(ours["method"]) == list(wanted["method"])
    assert ours["error"].to_numpy() == pytest.approx(
        wanted["error"].to_numpy(), rel=0.02, abs=0.01, nan_ok=True
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_training_in_half_is_refused(dtype):
    dense = network(dtype, 0)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images(dtype)[0], torch.zeros(8, dtype=torch.long)), 4
    )
    message = rf"must be in single precision to be trained, got {dtype} for 'first\.weight'"
    with pytest.raises(ValueError, match=message):
        sekron.finetune(PLAN.apply(dense), loader, progress=False)
    with pytest.raises(ValueError, match=message):
        funnel(dense, loader, images(dtype)[0], budget=search.Budget(flops=0.5), progress=False)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_memory_of_a_network_stays_its_own(dtype):
    model = network(dtype, 0)
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    model.first.weight.grad = grad = torch.ones_like(model.first.weight)

    @in_single_precision
    def change(network, batches):
        assert (
            {t.dtype for t in network.parameters()} == {x.dtype for x in batches} == {torch.float32}
        )
        network.first.weight.data.add_(0.5)
        raise KeyError

    wanted = (model.first.weight.detach().float() + 0.5).to(dtype)
    with pytest.raises(KeyError):
        change(model, images(dtype))
    assert places == {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert model.first.weight.grad is grad
    assert torch.equal(model.first.weight, wanted)
    check(model, dtype)


class Halved(nn.Module):
    """A factor that is computed from another."""

    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return weight * 2


@in_single_precision
def moved(network, batches):
    """Change the parameters, and whatever else is in single precision."""
    for parameter in network.parameters():
        assert parameter.dtype == torch.float32
        parameter.data.add_(1.0)


@pytest.mark.parametrize("factor", ["0", "1"])
def test_a_factor_that_is_computed_is_cast_back(factor):
    structure = Structure.parse("sekron:8x1,1x9@3")
    small = Plan({"0": structure}).apply(nn.Sequential(nn.Linear(9, 8)))
    parametrize.register_parametrization(small[0].weights, factor, Halved())
    small = small.half()
    wanted = [parameter + 1.0 for parameter in small.parameters()]
    moved(small, images(torch.float16))
    for parameter, own in zip(small.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter, own)


def test_sparse_buffers_stay_in_half_precision():
    network = nn.Sequential(nn.Linear(3, 3))
    network.register_buffer("sparse", torch.eye(3).to_sparse())
    sparse = network.half().sparse
    moved(network, images(torch.float16))
    assert network.sparse is sparse
    assert torch.equal(sparse.to_dense(), torch.eye(3).half())


def test_whatever_fails_leaves_a_network_in_half_precision(monkeypatch):
    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(precision, "_cast_back", failing)
    model = network(torch.float16, 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MemoryError):
        moved(model, images(torch.float16))
    check(model, torch.float16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "is_scaled"),
    [((1e-7, 1e5, 1.0), True), ((0.1, 30.0), False), ((0.0, 1e5), False), ((1e-9, 1e-9), False)],
)
def test_powers_of_two_move_from_factor_to_factor(values, is_scaled):
    factors = [torch.full((3,), value, dtype=torch.float64) for value in values]
    halves = narrowed(factors, torch.float16)
    assert all(half.dtype == torch.float16 for half in halves)
    assert is_scaled is not all(
        torch.equal(h, f.half()) for h, f in zip(halves, factors, strict=True)
    )
    assert all(
        torch.equal(h, f.bfloat16())
        for h, f in zip(narrowed(factors, torch.bfloat16), factors, strict=True)
    )
    if is_scaled:
        product = torch.stack([half.double() for half in halves]).prod(dim=0)
        torch.testing.assert_close(product, torch.stack(factors).prod(dim=0), rtol=3e-3, atol=0.0)
        again = narrowed([half.double() for half in halves], torch.float16)
        assert all(torch.equal(a, h) for a, h in zip(again, halves, strict=True))


class Casting(nn.Module):
    """Casts to the dtype that it was made for, whatever its weights have become."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.inner = dtype, network(dtype, 0)

    def forward(self, x):
        return self.inner(x.to(self.dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_forward_that_casts_to_half_itself_is_told_so(dtype):
    dense = Casting(dtype)
    small = Plan({"inner.body": PLAN["body"]}).apply(dense)
    before = copy.deepcopy(small.state_dict())
    message = r"it raised RuntimeError: .*; a network in half precision runs in single here, so"
    for change in (sekron.repair, sekron.refit, sekron.tune):
        with pytest.raises(ValueError, match=message):
            change(small, dense, images(dtype), progress=False)
    with pytest.raises(ValueError, match=message):
        sekron.recalibrate(small, images(dtype))
    with pytest.raises(ValueError, match=message):
        moments(dense, ["inner.body"], images(dtype))
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
