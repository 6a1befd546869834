"""Networks with attention are searched, compressed, fitted and loaded like any other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import baselines
import search
import sekron
from search.clock.stopwatch import Stopwatch
from sekron.layers.attention import Attention
from sekron.network.eligibility import register
from sekron.network.opening import closed, open_modules, opened
from sekron.profiling.count import count_flops
from sekron.structures.structure import Structure
from sekron.structures.templates import channel_svd
from sekron.training.funnel import funnel

WIDTH = 24


class Conv1D(nn.Module):
    """A linear layer with a weight `(in, out)`, as Hugging Face has it."""

    __module__, __qualname__ = "transformers.pytorch_utils", "Conv1D"

    def __init__(self, n_out, n_in):
        super().__init__()
        self.nf, self.nx = n_out, n_in
        self.weight = nn.Parameter(0.2 * torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        y = torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight)
        return y.reshape(*x.shape[:-1], self.nf)


class Encoder(nn.Module):
    def __init__(self, batch_first=True, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 40, batch_first=batch_first, **options)
        is_fast = batch_first and not layer.norm_first
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=is_fast)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x, padding=None):
        return self.head(self.body(x, src_key_padding_mask=padding))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 3, 40, batch_first=True)
        self.body, self.head = nn.TransformerDecoder(layer, 2), nn.Linear(WIDTH, 5)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.body(x, x.flip(1)[:, 1:], tgt_mask=mask, tgt_is_causal=True))


class Stored(nn.Module):
    """Layers whose weights are stored the other way round; the square one could be mixed up."""

    def __init__(self):
        super().__init__()
        self.up, self.square = Conv1D(40, WIDTH), Conv1D(40, 40)
        self.down, self.head = Conv1D(WIDTH, 40), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.down(self.square(self.up(x).relu()).relu()))


class Flat(nn.Module):
    """Logits of a whole sequence."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).mean(dim=1)


NETWORKS = {
    "encoder": Encoder,
    "encoder, batch second": lambda: Encoder(batch_first=False),
    "encoder, norm first": lambda: Encoder(norm_first=True),
    "decoder": Decoder,
    "stored transposed": Stored,
}
LAYERS = {"encoder": 12, "encoder, batch second": 12, "encoder, norm first": 12, "decoder": 20}


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture
def network(name):
    torch.manual_seed(0)
    made = NETWORKS[name]().eval()
    for parameter in made.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    return made


X = torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(5))


def batches():
    return [torch.randn(8, 7, WIDTH) for _ in range(3)]


def full(layer):
    family, shapes = channel_svd(layer.weight_shape)
    return Structure(family, shapes, (min(layer.weight_shape),))


def halved(layer):
    family, shapes = channel_svd(layer.weight_shape)
    return Structure(family, shapes, (min(layer.weight_shape) // 3,))


def outputs(network, x=X):
    with torch.no_grad():
        return network(x)


def state(network):
    return {
        name: (type(module), module.training, dict(module._parameters))
        for name, module in network.named_modules()
    }


def test_all_projections_are_searched_and_full_rank_is_exact(network, name):
    before = state(network)
    measured = search.profile(network, X)
    assert len(measured.searched) == LAYERS.get(name, 3)
    assert measured.flops == count_flops(network, (X[:1],))[0]
    assert [layer.reason[:17] for layer in measured.layers if layer.reason] == ["last linear layer"]
    small = sekron.Plan({layer.name: full(layer) for layer in measured.searched}).apply(network)
    torch.testing.assert_close(outputs(small), outputs(network), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(small(X), network(X), atol=1e-4, rtol=1e-3)
    assert state(network) == before


def test_flops_of_a_plan_are_those_counted_on_the_compressed_network(network):
    measured = search.profile(network, X)
    for plan in (
        sekron.Plan({layer.name: halved(layer) for layer in measured.searched}),
        sekron.Plan({layer.name: halved(layer) for layer in measured.searched[1::2]}),
    ):
        small = plan.apply(network)
        totals = measured.totals(plan)
        assert totals["flops"] == count_flops(small, (X[:1],))[0]
        assert totals["params"] == sum(p.numel() for p in small.parameters())


def test_from_the_search_to_a_fitted_network_that_is_saved_and_loaded(network, name, tmp_path):
    result = search.run(
        network,
        X,
        budget=search.Budget(flops=0.6),
        n_trials=0,
        max_sequence_length=2,
        measure_seconds=0,
        calibration=batches(),
        output="logits",
        progress=False,
    )
    small = result.best.apply(network)
    assert count_flops(small, (X[:1],))[0] <= 0.6 * result.profile.flops
    before = state(network)
    for fit in (sekron.tune, sekron.refit):
        assert fit(small, network, batches(), steps=3, progress=False) <= 1.0
    assert state(network) == before
    sekron.save(small, tmp_path / "small.safetensors")
    torch.manual_seed(3)
    again = sekron.load(NETWORKS[name]().eval(), tmp_path / "small.safetensors")
    torch.testing.assert_close(outputs(again), outputs(small), atol=0, rtol=0)


def test_ranks_by_training_and_repair():
    network = Stored().eval()
    loader = [(x, torch.zeros(8, dtype=torch.long)) for x in batches()]
    budget, recipe = search.Budget(flops=0.7), sekron.Recipe(epochs=1, distillation=1)
    found = funnel(
        Flat(network), loader, X, budget=budget, dense=Flat(network), recipe=recipe, progress=False
    )
    assert {name.split(".")[-1] for name in found.plan} <= {"up", "square", "down"}
    repaired = sekron.repair(found.network, Flat(network), batches(), progress=False)
    assert repaired.after <= repaired.before


@pytest.mark.parametrize("flops", [0.7, 1.0])
@pytest.mark.parametrize("kind", [Stored, Encoder])
def test_what_was_ranked_by_training_is_saved_and_loaded(kind, flops, tmp_path):
    """Also where layers of an opened module save nothing, and stay whole."""
    network = Flat(kind().eval())
    loader = [(x, torch.zeros(8, dtype=torch.long)) for x in batches()]
    budget, recipe = search.Budget(flops=flops), sekron.Recipe(epochs=1, distillation=1)
    found = funnel(network, loader, X, budget=budget, dense=network, recipe=recipe, progress=False)
    assert (
        search.profile(network, X).totals(found.plan)["flops"]
        == count_flops(found.network, (X[:1],))[0]
    )
    sekron.save(found.network, tmp_path / "small.safetensors")
    torch.manual_seed(3)
    again = sekron.load(Flat(kind()), tmp_path / "small.safetensors").eval()
    torch.testing.assert_close(outputs(again), outputs(found.network.eval()), atol=0, rtol=0)


# The network has layer norm, and every rival is re-estimated alike.
@pytest.mark.filterwarnings("ignore:recalibrate. the network has no batch norm:UserWarning")
def test_rivals_take_part(network):
    frame = baselines.compare(
        network,
        X,
        search.Budget(flops=0.6),
        methods=["tensor_train", "activation_svd"],
        allocations=["exact"],
        calibration=batches(),
        progress=False,
    )
    assert frame["flops_ratio"].le(0.6).all()
    assert frame["error"].gt(0.0).all()


def test_the_dense_side_of_the_clock_is_the_network_as_it_came(monkeypatch):
    network = Encoder().eval()
    measured = search.profile(network, X)
    raced = []

    def race(runs, *_, **__):
        for run in runs:
            run()
        return np.array([10 * [2.0], 10 * [4.0]])

    monkeypatch.setattr("search.clock.stopwatch.race", race)
    stopwatch = Stopwatch(network, X, measured)
    ready = stopwatch.sides.network
    stopwatch.sides.network = lambda side: raced.append(side) or ready(side)
    times = stopwatch.start(1.0)
    assert times.network_ms == 2000.0
    assert set(times.layers) == {layer.name for layer in measured.searched}
    assert all(layer.dense_ms > 0 for layer in times.layers.values())
    plan = sekron.Plan({"body.layers.0.linear1": halved(measured.searched[4])})
    assert stopwatch.network_ratio(stopwatch.compressed(plan), 1.0) == (0.5, 0.5, 0.5)
    kinds = [type(side.body.layers[0].self_attn) for side in raced]
    assert kinds == [nn.MultiheadAttention] * 2


WRAPPERS = {
    "plain": lambda model: model,
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("is_on_meta", [False, True], ids=["cpu", "meta"])
@pytest.mark.parametrize("into", WRAPPERS)
@pytest.mark.parametrize("source", WRAPPERS)
def test_what_was_opened_within_a_wrapper_is_loaded_within_any_other(
    source, into, is_on_meta, tmp_path
):
    torch.manual_seed(0)
    name = "body.layers.1.self_attn.k_proj"
    structure = Structure(*channel_svd((WIDTH, WIDTH)), (3,))
    small = sekron.Plan({name: structure}).apply(Encoder().bfloat16().eval())
    assert closed(small)  # one block is opened, the other is not
    sekron.save(WRAPPERS[source](small), tmp_path / "small")
    with torch.device("meta" if is_on_meta else "cpu"):
        fresh = WRAPPERS[into](Encoder().bfloat16())
    again = sekron.load(fresh, tmp_path / "small").eval()
    x = X.bfloat16()
    assert torch.equal(outputs(again, x), outputs(small, x))


def test_what_no_plan_names_stays_as_it_was():
    network = Encoder().eval()
    structure = Structure("chain", ((WIDTH, 1), (1, WIDTH)), (WIDTH,))
    small = sekron.Plan({"body.layers.1.self_attn.v_proj": structure}).apply(network)
    first, second = small.body.layers
    assert type(first.self_attn) is nn.MultiheadAttention
    assert first.activation_relu_or_gelu == network.body.layers[0].activation_relu_or_gelu
    assert type(second.self_attn) is Attention
    torch.testing.assert_close(outputs(small), outputs(network), atol=1e-4, rtol=1e-3)


# Torch says so of its own fast path.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_torchs_layers_run_part_by_part_where_one_part_is_replaced():
    network = Encoder().eval()
    padding = torch.arange(7) >= torch.tensor([[7], [5], [7], [4]])
    structure = Structure("chain", ((40, 1), (1, WIDTH)), (WIDTH,))
    small = sekron.Plan({"body.layers.0.linear1": structure}).apply(network)
    assert type(small.body.layers[0].self_attn) is nn.MultiheadAttention
    torch.testing.assert_close(outputs(small), outputs(network), atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        wanted, found = network(X, padding), small(X, padding)
    torch.testing.assert_close(found[~padding], wanted[~padding], atol=1e-4, rtol=1e-3)


class OwnLayer(nn.TransformerEncoderLayer):
    pass


def test_subclasses_of_torchs_layers_run_part_by_part_too():
    network = nn.Sequential(OwnLayer(WIDTH, 2, 40, batch_first=True), nn.Linear(WIDTH, 3)).eval()
    measured = search.profile(network, X)
    assert len(measured.searched) == 6
    for layer in measured.searched:
        small = sekron.Plan({layer.name: full(layer)}).apply(network)
        torch.testing.assert_close(outputs(small), outputs(network), atol=1e-4, rtol=1e-3)


class OwnAttention(nn.MultiheadAttention):
    pass


class Reader(nn.Module):
    """Reads of one of its two blocks what only torch's class has."""

    def __init__(self):
        super().__init__()
        self.first = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.second = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = x.to(self.first.in_proj_weight.dtype)
        return self.head(self.second(*[self.first(x, x, x)[0]] * 3)[0])


def test_a_block_stays_closed_whose_insides_the_network_reads():
    measured = search.profile(Reader().eval(), X)
    assert {layer.name.split(".")[0] for layer in measured.searched} == {"second"}
    kept = {layer.name: layer.reason for layer in measured.layers if layer.name == "first"}
    assert kept == {"first": "MultiheadAttention is neither a convolution nor a linear layer"}


def tied():
    network = nn.ModuleList([nn.MultiheadAttention(WIDTH, 2), nn.MultiheadAttention(WIDTH, 2)])
    network[1].in_proj_weight = network[0].in_proj_weight
    return network


def tied_transposed():
    network = nn.ModuleList([Conv1D(WIDTH, 7), nn.Linear(WIDTH, 7)])
    network[1].weight = network[0].weight
    return network


def with_another_forward():
    network = nn.MultiheadAttention(WIDTH, 2)
    network.forward = lambda *_: network
    return network


def with_computed_weight(name):
    network = nn.MultiheadAttention(WIDTH, 2)
    prune.l1_unstructured(network.get_submodule(name[0]), name[1], 0.5)
    return network


@pytest.mark.parametrize(
    "made",
    [
        tied,
        tied_transposed,
        with_another_forward,
        lambda: OwnAttention(WIDTH, 2),
        lambda: with_computed_weight(("", "in_proj_weight")),
        lambda: with_computed_weight(("out_proj", "weight")),
    ],
)
def test_what_may_be_something_else_stays_closed(made):
    network = made()
    kinds = [type(module) for module in network.modules()]
    assert [type(module) for module in open_modules(network).modules()] == kinds


def test_a_block_in_two_places_is_opened_once():
    block = nn.TransformerEncoderLayer(WIDTH, 2, 40, batch_first=True)
    network = nn.Sequential(block, nn.Sequential(block), nn.Linear(WIDTH, 3)).eval()
    found = opened(network)
    assert found[0] is found[1][0]
    assert type(found[0].self_attn) is Attention
    assert type(block.self_attn) is nn.MultiheadAttention
    torch.testing.assert_close(outputs(found), outputs(network))


def test_a_network_without_such_modules_is_not_copied():
    network = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 5, 1))
    assert opened(network) is network
    assert opened(Encoder(), ["head"]) is not None
    assert closed(Encoder(), ["head"]) == []


class Rows(nn.Module):
    """A linear layer that stores a list of rows."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(torch.randn(n_in)) for _ in range(n_out))

    def forward(self, x):
        return torch.stack([x @ row for row in self.rows], dim=-1)


def test_users_tell_how_a_class_of_theirs_is_opened():
    network = nn.Sequential(Rows(WIDTH, 9), nn.Linear(9, 3)).eval()
    assert search.profile(network, X, include=["*"]).searched[0].name == "1"

    def as_linear(module):
        linear = nn.Linear(WIDTH, len(module.rows), bias=False)
        linear.weight = nn.Parameter(torch.stack(list(module.rows)).detach())
        return linear

    register(Rows, as_linear)
    measured = search.profile(network, X)
    assert [layer.name for layer in measured.searched] == ["0"]
    small = sekron.Plan({"0": full(measured.searched[0])}).apply(network)
    torch.testing.assert_close(outputs(small), outputs(network), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match=r"or any module's class with `opener`, got 3"):
        register(3, as_linear)


def test_a_compressed_network_can_be_compressed_again():
    network = Encoder().eval()
    first, *rest = search.profile(network, X).searched
    small = sekron.Plan({first.name: full(first)}).apply(network)
    measured = search.profile(small, X)
    assert [layer.name for layer in measured.searched] == [layer.name for layer in rest]
    smaller = sekron.Plan({layer.name: full(layer) for layer in rest}).apply(small)
    torch.testing.assert_close(outputs(smaller), outputs(network), atol=1e-4, rtol=1e-3)
    assert sekron.refit(smaller, small, batches(), steps=2, progress=False) <= 1.0


def test_gpt2_at_full_rank(torchvision):
    # Only the survey needs it: it is not among the extras of the tests.
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=WIDTH,
        n_head=2,
        vocab_size=50,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        return_dict=False,
    )
    network = transformers.GPT2Model(config).eval()
    words = torch.randint(0, 50, (1, 9))
    measured = search.profile(network, words, include=["*"])
    assert len(measured.searched) == 8
    small = sekron.Plan({layer.name: full(layer) for layer in measured.searched}).apply(network)
    with torch.no_grad():
        torch.testing.assert_close(small(words)[0], network(words)[0], atol=1e-4, rtol=1e-3)
    assert count_flops(network, (words,))[0] == measured.flops


@pytest.mark.parametrize("name", ["vit", "swin", "swin v2"])
def test_tools_that_trace_go_through_opened_networks(torchvision, name):
    torch.manual_seed(0)
    swin = torchvision.models.swin_transformer
    options = {
        "swin": {},
        "swin v2": {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        },
    }
    network = (
        torchvision.models.VisionTransformer(16, 8, 1, 2, 24, 40)
        if name == "vit"
        else torchvision.models.SwinTransformer([2, 2], 12, [1, 1], [2, 3], [2, 2], **options[name])
    ).eval()
    found, x = opened(network), torch.randn(3, 3, 16, 16)
    batch = ({0: torch.export.Dim("batch", min=2, max=16)},)
    for traced in (
        torch.fx.symbolic_trace(found),
        torch.compile(found, backend="eager", fullgraph=True),
        torch.export.export(found, (x,), dynamic_shapes=batch).module(),
    ):
        torch.testing.assert_close(outputs(traced, x), outputs(network, x))
