"""Weights that were read: all that `load_state_dict` takes, and names that wrappers changed."""

import copy

import pytest
import torch
from torch import nn

from sekron import Plan, Structure, load, save
from sekron.network.surgery import structures_of, swap
from sekron.network.tensor_names import fitted_names
from sekron.network.weights import load_weights

STRUCTURE = Structure.parse("chain:7x1x3x1,1x5x1x3@6")
CLOSER = Structure.parse("chain:4x1,1x7@2")


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.Sequential(nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 4),
    )
    model(torch.randn(4, 3, 9, 9))  # statistics that are not those of a fresh network
    return model.eval()


def compile_inside(model):
    model[2] = torch.compile(model[2], backend="eager")
    return model


def compile_layers(model):
    """Compile what is to be replaced, alone."""
    model[2][0] = torch.compile(model[2][0], backend="eager")
    return model


def parallel_inside(model):
    model[2] = nn.DataParallel(model[2])
    return model


class Trainer(nn.Module):
    """Holds the network, as trainers of others do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


WRAPPERS = {
    "plain": lambda model: model,
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
    "compiled-inside": compile_inside,
    "compiled-layers": compile_layers,
    "parallel-inside": parallel_inside,
    "parallel-twice": lambda model: nn.DataParallel(parallel_inside(model)),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "trainer": Trainer,
    "trainer-of-compiled": lambda model: Trainer(torch.compile(model, backend="eager")),
}


def values(model):
    """Return the tensors of a network, whatever their names, in order."""
    return [t for n, t in model.state_dict().items() if n != "n_averaged"]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


@pytest.mark.parametrize("into", ["plain", "parallel", "both", "compiled-inside", "trainer"])
@pytest.mark.parametrize("source", WRAPPERS)
def test_a_state_dict_fits_whatever_wraps_either_side(source, into):
    saved, fresh = WRAPPERS[source](network()), WRAPPERS[into](network(1))
    assert not equal(saved, fresh)
    said = load_weights(fresh, saved.state_dict(), "the file")
    assert equal(saved, fresh)
    assert bool(said) is bool(set(saved.state_dict()) - {"n_averaged"} != set(fresh.state_dict()))


@pytest.mark.parametrize("into", WRAPPERS)
@pytest.mark.parametrize("source", ["plain", "parallel", "compiled", "both", "trainer"])
def test_a_compressed_network_fits_whatever_wraps_either_side(source, into, tmp_path):
    small = Plan({"2.0": STRUCTURE, "5": CLOSER}).apply(network())
    save(WRAPPERS[source](copy.deepcopy(small)), tmp_path / "small")
    again = load(WRAPPERS[into](network(1)), tmp_path / "small").eval()
    assert equal(again, small)
    assert sorted(map(str, structures_of(again).values())) == sorted([str(STRUCTURE), str(CLOSER)])
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("wrap", ["compiled-inside", "compiled-layers", "parallel-inside"])
def test_what_is_wrapped_inside_is_saved_and_loaded(wrap, tmp_path):
    small = Plan({"2.0": STRUCTURE}).apply(network())
    save(WRAPPERS[wrap](copy.deepcopy(small)), tmp_path / "small")
    assert equal(load(network(1), tmp_path / "small"), small)


@pytest.mark.parametrize("wrap", ["plain", "parallel", "compiled"])
def test_a_single_layer_in_a_wrapper(wrap, tmp_path):
    layer = Plan({"": CLOSER}).apply(nn.Linear(7, 4))
    save(WRAPPERS[wrap](layer), tmp_path / "layer")
    again = load(nn.Linear(7, 4), tmp_path / "layer")
    assert torch.equal(again.dense_weight(), layer.dense_weight())
    save(layer, tmp_path / "layer")
    again = load(WRAPPERS[wrap](nn.Linear(7, 4)), tmp_path / "layer")
    x = torch.randn(3, 7)
    with torch.no_grad():
        assert torch.equal(again(x), layer(x))


def test_what_was_compiled_runs_what_was_put_into_it():
    compiled, other = torch.compile(nn.Linear(7, 4), backend="eager"), nn.Linear(7, 4)
    x = torch.randn(3, 7)
    compiled(x)
    assert torch.equal(swap(compiled, {"_orig_mod": other})(x), other(x))


def test_networks_with_a_layer_called_module_keep_it():
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    weights = copy.deepcopy(model.state_dict())
    assert load_weights(model, weights, "the file") == ""
    assert load_weights(nn.DataParallel(model), weights, "the file").startswith("'module.")
    ambiguous = ["weight", "module.weight"]  # both of one name without the wrapper's
    assert fitted_names(["module.module.weight"], ambiguous) == {
        "module.module.weight": "module.module.weight"
    }


def without_counters(model):
    return {n: t for n, t in model.state_dict().items() if "num_batches" not in n}


@pytest.mark.parametrize("wrap", ["plain", "parallel", "both"])
def test_old_files_have_no_counters(wrap):
    saved, fresh = network(), network(1)
    load_weights(fresh, without_counters(WRAPPERS[wrap](network())), "the file")
    assert equal(fresh, saved)


class Renamed(nn.Linear):
    """Knows what its weight was once called, and that it was the transpose then."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") == 1 or f"{prefix}kernel" in state:
            name = "kernel" if f"{prefix}kernel" in state else "weight"
            state[f"{prefix}weight"] = state.pop(f"{prefix}{name}").T
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def old_names(model):
    state = model.state_dict()
    state["0.kernel"] = state.pop("0.weight").T
    return state


def old_version(model):
    state = model.state_dict()
    state["0.weight"] = state["0.weight"].T
    state._metadata["0"]["version"] = 1
    return state


def scalars_of_old(model):
    return {name: tensor.reshape(1) for name, tensor in model.state_dict().items()}


class Scaled(nn.Module):
    """One number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()))


@pytest.mark.parametrize(
    ("make", "state_of"),
    [
        (lambda: nn.Sequential(Renamed(3, 2)), old_names),
        (lambda: nn.Sequential(Renamed(3, 2)), old_version),
        (lambda: nn.Sequential(Renamed(3, 2)), lambda model: model.state_dict()),
        (Scaled, scalars_of_old),
        (network, without_counters),
        (
            lambda: nn.Sequential(nn.LazyLinear(3)),
            lambda _: nn.Sequential(nn.Linear(2, 3)).state_dict(),
        ),
    ],
    ids=["old-names", "old-version", "same-version", "old-scalars", "no-counters", "lazy"],
)
def test_what_torch_takes_is_taken(make, state_of):
    torch.manual_seed(0)
    state = state_of(make())
    theirs, ours = make(), make()
    theirs.load_state_dict(copy.deepcopy(state))
    load_weights(ours, state, "the file")
    assert equal(ours, theirs)


# Old files come from it.
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_names_of_the_old_weight_norm_are_taken():
    old = torch.nn.utils.weight_norm(nn.Linear(3, 2))
    new = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    load_weights(new, old.state_dict(), "the file")
    torch.testing.assert_close(new.weight, old.weight)


@pytest.mark.parametrize("wrap", ["plain", "parallel"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("2.0.bias"), r"but has no tensor '2\.0\.bias'; it has '"),
        (lambda w: w.update(new=torch.zeros(1)), r"which has no tensor '(module\.)?new'"),
        (lambda w: w.update({"5.bias": torch.zeros(3)}), r"'5\.bias' has the shape \(3,\) instead"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_the_first_difference_is_named_and_nothing_is_changed(change, message, wrap):
    weights, model = network().state_dict(), network(1)
    change(weights)
    if wrap == "parallel":
        weights = {f"module.{name}": tensor for name, tensor in weights.items()}
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=f"^the file must fit the network, .*{message}"):
        load_weights(model, weights, "the file")
    assert equal(model, before)


def tied():
    model = nn.ModuleDict({"a": nn.Linear(7, 7), "b": nn.Linear(7, 7), "c": nn.Linear(7, 4)})
    model["b"].weight = model["a"].weight
    model["again"] = model["c"]
    model["b"].bias.requires_grad_(False)
    return model.double()


@pytest.mark.parametrize(
    ("make", "plan"),
    [(network, {"2.0": STRUCTURE, "5": CLOSER}), (tied, {"c": CLOSER}), (network, {})],
    ids=["network", "tied", "dense"],
)
@pytest.mark.parametrize("wrap", ["plain", "parallel"])
def test_a_network_on_meta_comes_out_with_what_was_saved(make, plan, wrap, tmp_path):
    small = Plan(plan).apply(make())
    save(WRAPPERS[wrap](small), tmp_path / "small")
    with torch.device("meta"):
        on_meta = make()
    usual = load(make(), tmp_path / "small")
    again = load(on_meta, tmp_path / "small")
    assert equal(again, usual)
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    for name, tensor in usual.state_dict(keep_vars=True).items():
        loaded = again.state_dict(keep_vars=True)[name]
        assert (loaded.dtype, loaded.device) == (tensor.dtype, tensor.device)
        assert loaded.requires_grad == tensor.requires_grad
        assert type(loaded) is type(tensor)
    if make is tied:
        assert again["a"].weight is again["b"].weight
        assert again["c"] is again["again"]


class Positions(nn.Module):
    """A table that is no part of the state dict."""

    def __init__(self, kind):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        if kind == "buffer":
            self.register_buffer("table", torch.arange(4.0), persistent=False)
        else:
            self.table = torch.arange(4.0)


@pytest.mark.parametrize("kind", ["buffer", "attribute"])
def test_what_no_file_holds_on_meta_is_named(kind, tmp_path):
    save(nn.Sequential(Positions(kind)), tmp_path / "model")
    with torch.device("meta"):
        model = nn.Sequential(Positions(kind))
    with pytest.raises(ValueError, match=r"on the `meta` device must .* no file holds '0\.table'"):
        load(model, tmp_path / "model")
    with pytest.raises(ValueError, match=r"no file holds '0\.table'; make the network on the CPU"):
        load_weights(model, nn.Sequential(Positions(kind)).state_dict(), "the file")
    load(nn.Sequential(Positions(kind)), tmp_path / "model")


def test_a_plan_needs_weights():
    with pytest.raises(
        ValueError, match=r"layer '2\.0': the weight must have values, but is on the"
    ):
        Plan({"2.0": STRUCTURE}).apply(network().to("meta"))


def test_a_difference_leaves_a_network_on_meta_there():
    model = network().to("meta")
    weights = network().state_dict()
    del weights["0.bias"]
    with pytest.raises(ValueError, match=r"has no tensor '0\.bias'"):
        load_weights(model, weights, "the file")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"must be a file, but is something else"):
        load(network(), tmp_path)


def test_weights_on_meta_are_refused():
    for model in (network(), network().to("meta")):
        weights = {name: tensor.clone() for name, tensor in network().state_dict().items()}
        last = list(weights)[-1]
        weights[last] = weights[last].to("meta")
        with pytest.raises(ValueError, match=rf"'{last}' is on the `meta` device, which holds no"):
            load_weights(model, weights, "the file")
