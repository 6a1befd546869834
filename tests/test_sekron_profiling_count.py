"""Counts against torch's own counter, and against what the operators do."""

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search
from search import Budget
from sekron.profiling.count import count, count_flops


class Of(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def tensors(*shapes):
    return tuple(torch.randn(shape) for shape in shapes)


def by_torch(model, arguments):
    """Half of what torch counts: a multiply-add is two there."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*arguments)
    return counter.get_total_flops() // 2


# One case a line, however long.
CASES = {
    "attention": (F.scaled_dot_product_attention, ((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6)), 3920),
    "matrix": (torch.matmul, ((3, 4), (4, 5)), 60),
    "matrix-vector": (torch.matmul, ((3, 4), (4,)), 12),
    "vector-matrix": (torch.matmul, ((3,), (3, 4)), 12),
    "vectors": (torch.matmul, ((4,), (4,)), 4),
    "batch-vector": (torch.matmul, ((2, 3, 4), (4,)), 24),
    "broadcast": (torch.matmul, ((2, 1, 3, 4), (5, 4, 6)), 720),
    "mv": (torch.mv, ((3, 4), (4,)), 12),
    "dot": (torch.dot, ((4,), (4,)), 4),
    "baddbmm": (torch.baddbmm, ((2, 3, 5), (2, 3, 4), (2, 4, 5)), 120),
    "tensordot": (
        lambda a, b: torch.tensordot(a, b, dims=([1, 0], [0, 2])), ((3, 4, 5), (4, 6, 3)), 360
    ),
    "same": (lambda x, w: F.conv2d(x, w, padding="same"), ((1, 3, 5, 4), (6, 3, 3, 3)), 3240),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_products_are_counted(case):
    function, shapes, wanted = CASES[case]
    found, unsupported = count_flops(Of(function), tensors(*shapes))
    assert found == wanted
    assert unsupported == {}


@pytest.mark.parametrize(
    "case", ["attention", "matrix", "broadcast", "baddbmm", "tensordot", "same"]
)
def test_torch_counts_the_same(case):
    function, shapes, _ = CASES[case]
    assert by_torch(function, tensors(*shapes)) == CASES[case][2]


EINSUMS = {
    "matrix": ("ij,jk->ik", (3, 4), (4, 5)),
    "implicit": ("ij, jk", (3, 4), (4, 5)),
    "batch": ("bhid,bhjd->bhij", (2, 3, 5, 7), (2, 3, 4, 7)),
    "ellipsis": ("...ij,...jk->...ik", (2, 1, 5, 7), (6, 7, 4)),
    "alone": ("ija,jkb->ik", (3, 4, 2), (4, 5, 6)),
    "inner": ("ij,ij->", (3, 4), (3, 4)),
    "outer": ("i,j->ij", (3,), (4,)),
    "three": ("ij,jk,kl->il", (2, 30), (30, 4), (4, 50)),
    "four": ("abi,ij,jk,kb->a", (3, 5, 7), (7, 9), (9, 2), (2, 5)),
    "attention": ("bqhd,bkhd,bkhe->bqhe", (2, 5, 3, 4), (2, 6, 3, 4), (2, 6, 3, 8)),
    "sum": ("ij->j", (3, 4)),
}


@pytest.mark.parametrize("case", EINSUMS)
@pytest.mark.parametrize("with_path", [True, False], ids=["path", "in-turn"])
# of opt_einsum, which reads sizes while it is traced
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_einsum_costs_what_its_products_do(case, with_path, monkeypatch):
    monkeypatch.setattr(torch.backends.opt_einsum, "enabled", with_path)
    equation, *shapes = EINSUMS[case]
    model, inputs = Of(lambda *of: torch.einsum(equation, *of)), tensors(*shapes)
    assert count_flops(model, inputs) == (by_torch(model, inputs), {})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_apply_their_matrices_once_a_step(kind):
    model = kind(3, 4, num_layers=2, bidirectional=True).eval()
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    found, _ = count_flops(model, tensors((7, 2, 3)))
    assert found == 7 * 2 * matrices


def test_an_encoder_is_counted_as_torch_does_but_for_its_norms():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = tensors((2, 5, 8))
    found, _ = count_flops(model, x)
    norms = 2 * 5 * x[0].numel()  # fvcore counts five for every number that is normalised
    with sdpa_kernel(SDPBackend.MATH):  # of the others torch counts nothing on a CPU
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert found == by_torch(model, x) + norms
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert torch.backends.mha.get_fastpath_enabled()


@dataclass
class Found:
    logits: torch.Tensor
    hidden: list
    count: int = 3


OUTPUTS = {
    "number beside": lambda y: (y, 3, 2.5, True, None, "text"),
    "keys of numbers": lambda y: {0: y, 1: {2: y.relu()}},
    "data class": lambda y: Found(y, [y.relu()]),
    "namespace": lambda y: SimpleNamespace(y=y),
    "mapping": lambda y: UserDict(y=y),
    "number of a tensor": lambda y: y.sum().item(),
    "no tensor": lambda y: y.shape[0],
    "set": lambda y: {y},
    "nested": lambda y: [(y, {"a": [y]})],
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_whatever_a_network_puts_out_it_is_counted(output):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
    x = torch.randn(1, 3, 7, 7)

    class Putting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return OUTPUTS[output](self.layers(x))

    counts, plain = count(Putting(), x), count(layers, x)
    assert counts.by_module[""] == counts.by_module["layers"] == plain.by_module[""] == 3625
    assert counts.by_module["layers.0"] == plain.by_module["0"] == 3375


def test_arguments_may_be_named_and_anything_but_tensors():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, *, times=1, mask=None, options=None):
            y = sum(self.layer(x) for _ in range(times))
            return {"y": y if mask is None else y * mask, "options": options}

    inputs = {
        "x": torch.randn(1, 4),
        "times": 3,
        "mask": torch.ones(1, 3),
        "options": {"a": object()},
    }
    assert count_flops(Named(), inputs)[0] == 36


def test_within_autocast_the_same_is_counted():
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3)), torch.randn(1, 3, 9, 9)
    wanted = count_flops(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)  # its weights are cast, and kept for the next call
        assert count_flops(model, x) == wanted
        assert torch.is_autocast_cache_enabled()


class Packed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [7, 7], enforce_sorted=True)
        return self.inner(packed)[0].data


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python")  # a trace has fixed lengths
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_cost_what_padded_ones_do(kind):
    model = kind(3, 4, num_layers=2, bidirectional=True).eval()
    padded, packed = (count_flops(m, tensors((7, 2, 3)))[0] for m in (model, Packed(model)))
    assert packed == padded


NAMES = ["a/b", "/", "a b", "ünï", "x:0", "a\\b", "new\nline", "network", "network/a", "∕"]


class Named(nn.Module):
    """Blocks under any names, as converters give them."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            block = nn.Sequential()
            block.add_module(f"conv{name}", nn.Conv2d(2, 2, 3, padding=1))
            self.add_module(name, block)

    def forward(self, x):
        for block in self.children():
            x = block(x)
        return x


def test_modules_are_counted_whatever_their_names():
    (x,) = tensors((1, 2, 5, 4))
    found, plain = (
        count(Named(names), x) for names in (NAMES, [f"l{i}" for i in range(len(NAMES))])
    )
    assert set(found.by_module) == {name for name, _ in Named(NAMES).named_modules()}
    assert list(found.by_module.values()) == list(plain.by_module.values())
    assert all(found.by_module[name] == 2 * 2 * 9 * 20 for name in NAMES)


def test_a_network_with_slashes_in_its_names_is_searched():
    network = Named(["a/b", "c/d", "e/f"])
    result = search.run(
        network,
        tensors((1, 2, 5, 4))[0],
        budget=Budget(flops=0.9),
        include=["*"],
        n_trials=0,
        measure_seconds=0,
        progress=False,
    )
    assert set(result.candidates().layer) == {f"{n}.conv{n}" for n in ("a/b", "c/d", "e/f")}
