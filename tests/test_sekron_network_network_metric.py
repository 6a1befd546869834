"""The metric of a network: a value with a digest, a file that its digest names."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sekron.decomposition.metric import Metric
from sekron.network.network_metric import NetworkMetric, metric_path


def spd(n, seed):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed)).double()
    return (root @ root.mT + torch.eye(n)).float().double()


def layers():
    diagonal = torch.arange(1.0, 6.0).double()
    return {"conv.1": Metric(spd(5, 0), spd(3, 1), 0.25), "": Metric(diagonal, spd(7, 2), 1.75)}


@pytest.fixture
def metric():
    return NetworkMetric(layers())


@pytest.fixture
def file(metric, tmp_path):
    with torch.device("meta"):  # wherever tensors are made by default
        metric.save(tmp_path)
    return metric_path(tmp_path, metric.digest)


def test_it_is_read_bit_by_bit_as_it_was_written(metric, file, tmp_path):
    assert list(tmp_path.iterdir()) == [file]
    again = NetworkMetric.load(tmp_path, metric.digest)
    assert again == metric
    for name, layer in metric.items():
        assert torch.equal(again[name].output, layer.output)
        assert torch.equal(again[name].input, layer.input)
        assert again[name].sensitivity == layer.sensitivity


def test_numbers_that_need_double_precision_are_kept(tmp_path):
    matrix = spd(4, 3) + 1e-12
    metric = NetworkMetric({"a": Metric(matrix, matrix.mT, 0.1)})  # one is a view of the other
    metric.save(tmp_path)
    again = NetworkMetric.load(tmp_path, metric.digest)
    assert torch.equal(again["a"].output, matrix)
    assert torch.equal(again["a"].input, matrix.mT)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, sensitivity=m.sensitivity + 1e-15),
        lambda m: replace(m, input=m.input * (1 + 1e-7)),
        lambda m: replace(m, output=m.input, input=m.output),
    ],
)
def test_whatever_differs_gives_another_digest(metric, change):
    other = NetworkMetric(layers() | {"conv.1": change(metric["conv.1"])})
    assert other != metric
    assert other.digest != metric.digest


def test_the_digest_does_not_depend_on_the_order_of_the_layers(metric):
    assert NetworkMetric(dict(reversed(layers().items()))) == metric
    renamed = {"b": layers()["conv.1"], "": layers()[""]}
    assert NetworkMetric(renamed) != metric


def test_the_plain_norm_has_no_digest_and_no_file(tmp_path):
    NetworkMetric().save(tmp_path)
    assert (NetworkMetric().digest, len(NetworkMetric())) == ("", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(metric, file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=f"{file.name} is damaged: "):
        NetworkMetric.load(file.parent, metric.digest)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("conv.1/output", None, "is damaged: 'conv.1/output'"),
        ("/sensitivity", None, "is damaged: '/sensitivity'"),
        ("/input", torch.ones(7, 6), r"is damaged: a matrix has the shape \(7, 6\)"),
        ("/output", torch.full((5,), float("nan")), "is damaged: a matrix is not finite"),
        ("/sensitivity", torch.tensor(-1.0), "is damaged: a sensitivity is not a number of"),
        ("/output", torch.ones(5), "must hold the metric .*, but holds another"),
    ],
    ids=["no-matrix", "no-number", "not-square", "nan", "negative", "another"],
)
def test_a_file_with_something_missing_or_wrong_is_refused(metric, file, part, value, message):
    tensors = load_file(file)
    del tensors[part]
    save_file(tensors | ({} if value is None else {part: value}), file)
    with pytest.raises(ValueError, match=f"{file.name} {message}"):
        NetworkMetric.load(file.parent, metric.digest)


def test_a_missing_file_is_named(metric, tmp_path):
    with pytest.raises(FileNotFoundError, match=metric_path(tmp_path, metric.digest).name):
        NetworkMetric.load(tmp_path, metric.digest)
