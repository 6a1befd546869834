"""Recalibration is the mean over what a norm sees, and touches nothing else."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

from sekron import Plan, Structure, recalibrate, refit, repair, tune
from tests.conftest import decayed


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3),
        nn.BatchNorm2d(7, momentum=0.3),
        nn.Dropout(0.5),
        nn.Sequential(nn.Conv2d(7, 5, 1), nn.BatchNorm2d(5, momentum=None)),
        nn.BatchNorm2d(5, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(5 * 36, 2),
    )
    model.train()
    model[2].eval()
    model[3][1].eval()
    model(torch.randn(11, 3, 8, 8))
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 8, 8, generator=generator) * n for n in (2, 3, 5)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def modes(model):
    return [m.training for m in model.modules()], [
        getattr(m, "momentum", 0) for m in model.modules()
    ]


def by_hand(model):
    """Mean over the images of the mean and the unbiased variance of what a norm sees of a batch."""
    means, variances = [[], []], [[], []]
    with torch.no_grad():
        for batch in batches():
            x = model[0](batch)
            for i, norm in enumerate((model[1], model[3][1])):
                flat = x.transpose(0, 1).flatten(1).double()
                mean, variance = flat.mean(1), flat.var(1)
                means[i].append(mean)
                variances[i].append(variance)
                biased = flat.var(1, correction=0) + norm.eps
                shape = (1, -1, 1, 1)
                x = (x.double() - mean.view(shape)) / biased.sqrt().view(shape)
                x = (x * norm.weight.view(shape) + norm.bias.view(shape)).float()
                x = model[3][0](x) if i == 0 else x
    shares = torch.tensor([len(batch) for batch in batches()]).double()
    shares /= shares.sum()
    return [shares @ torch.stack(m) for m in means], [shares @ torch.stack(v) for v in variances]


def test_statistics_are_the_mean_over_the_images():
    model = network()
    before, flags = state(model), modes(model)
    means, variances = by_hand(model)
    recalibrate(model, batches())
    for norm, mean, variance in zip((model[1], model[3][1]), means, variances, strict=True):
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)
        assert norm.num_batches_tracked == 3
    assert modes(model) == flags
    changed = {
        name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])
    }
    assert changed == {
        f"{norm}.{buffer}"
        for norm in ("1", "3.1")
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_doing_it_twice_changes_nothing():
    model = network()
    recalibrate(model, batches())
    once = state(model)
    recalibrate(model, batches())
    assert all(torch.equal(tensor, once[name]) for name, tensor in model.state_dict().items())


def test_batches_may_be_tuples_and_generators():
    plain, tuples = network(), network()
    recalibrate(plain, batches())
    recalibrate(tuples, ((x, torch.zeros(len(x))) for x in batches()))
    assert all(
        torch.equal(tensor, plain.state_dict()[n]) for n, tensor in tuples.state_dict().items()
    )


def broken():
    yield batches()[0]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (list, ValueError, "`batches` must hold at least one batch, got none"),
        (broken, OSError, "the disk is gone"),
        (
            lambda: [torch.randn(2, 4, 8, 8)],
            ValueError,
            r"must run on the batches, but on \(2, 4, 8, 8\) it raised RuntimeError: .* channels",
        ),
        (
            lambda: [*batches(), torch.full((2, 3, 8, 8), float("nan"))],
            ValueError,
            "`batches` must be finite, got NaN or Inf",
        ),
        (
            lambda: [torch.full((2, 3, 8, 8), 3e38)],
            ValueError,
            "the network's activations must be finite on `batches`",
        ),
    ],
    ids=["empty", "broken", "wrong", "late", "overflow"],
)
def test_after_an_error_everything_is_as_it_was(data, error, message):
    model = network()
    before, flags = state(model), modes(model)
    with pytest.raises(error, match=message):
        recalibrate(model, data())
    assert modes(model) == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_batch_norm_there_is_a_warning():
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7, track_running_stats=False))
    before = state(model)
    with pytest.warns(UserWarning, match="no batch norm with statistics; nothing was changed"):
        recalibrate(model, batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Auxiliary(nn.Module):
    """Its second head runs in training alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return (x, self.head(x)) if self.training else x


def test_a_norm_that_does_not_run_keeps_what_it_knows():
    torch.manual_seed(0)
    model = Auxiliary()
    model(torch.randn(9, 3, 8, 8))
    before = state(model.eval())
    recalibrate(model, batches())
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
    for name, buffer in model.head.named_buffers():
        assert torch.equal(buffer, before[f"head.{name}"])


def test_a_small_last_batch_counts_as_little_as_it_is():
    images = torch.cat([torch.randn(1000, 3), 10.0 + torch.randn(2, 3)])
    model = nn.Sequential(nn.BatchNorm1d(3))
    recalibrate(model, images.split(1000))
    torch.testing.assert_close(model[0].running_mean, images.mean(0))


class Twice(nn.Module):
    """Its norm sees images of two sizes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        self.norm(x[:, :, ::2, ::2])
        return self.norm(input=x)


def test_a_norm_that_runs_twice_counts_both_by_their_places():
    model, (x, *_) = Twice(), batches()
    recalibrate(model, [x])
    seen = [x[:, :, ::2, ::2], x]
    mean = torch.cat([part.transpose(0, 1).flatten(1) for part in seen], dim=1).mean(1)
    torch.testing.assert_close(model.norm.running_mean, mean)
    assert not model.norm._forward_pre_hooks


class Counting(nn.Module):
    """Changes a buffer of its own whenever it runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.register_buffer("n_runs", torch.zeros(()))

    def forward(self, x):
        self.n_runs += 1
        return self.norm(self.conv(x))


def test_no_buffer_but_those_of_batch_norm_changes():
    model = Counting()
    recalibrate(model, batches())
    assert (model.n_runs, model.norm.num_batches_tracked) == (0, 3)


def test_nor_does_it_where_a_network_is_repaired_or_tuned():
    torch.manual_seed(0)
    model = decayed(Counting()).eval()
    recalibrate(model, batches())
    plan = Plan({"conv": Structure.parse("chain:8x1x3x1,1x3x1x3@4")})
    for mend in (repair, refit, partial(tune, steps=3)):
        small = plan.apply(model)
        with pytest.warns(UserWarning, match="some hundred images, got 10"):
            mend(small, model, batches(), output="values", progress=False)
        assert small.n_runs == model.n_runs == 0


def test_a_compiled_network_is_not_compiled_again_for_every_batch():
    plain, eager = network().eval(), network().eval()
    n_compiled = []

    def backend(graph, _):
        n_compiled.append(graph)
        return graph.forward

    compiled = torch.compile(plain, backend=backend)
    with torch.no_grad():
        compiled(batches()[0])
    assert n_compiled
    n_compiled.clear()
    recalibrate(compiled, batches())
    recalibrate(eager, batches())
    assert not n_compiled
    for first, second in zip(plain.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(first, second)


def test_threads_leave_the_compiler_as_it_was():
    models = [network() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda model: recalibrate(model, batches()), models))
    compiled = []
    model = torch.compile(nn.ReLU(), backend=lambda graph, _: compiled.append(1) or graph.forward)
    model(torch.zeros(2))
    assert compiled


class Selecting(nn.Module):
    """Gives its norms some of the images, or none."""

    def __init__(self):
        super().__init__()
        self.some, self.none = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.none.running_mean.fill_(7.0)

    def forward(self, x):
        return self.some(x[x[:, 0] > 0]), self.none(x[x[:, 0] > 9])


def test_a_norm_that_gets_no_images_learns_nothing_from_them():
    positive = torch.rand(8, 3) + 0.1
    model = Selecting()
    recalibrate(model, [-positive, positive[:6], -positive, positive[6:]])
    torch.testing.assert_close(model.some.running_mean, positive.mean(0))
    assert torch.equal(model.none.running_mean, torch.full((3,), 7.0))
    assert model.none.num_batches_tracked == 0
