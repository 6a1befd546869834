"""Files of weights at the command line: nested, prefixed, cut, and never unpickled."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from search.cli.trained import load_tensors, load_trained


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1))


STATE = network().state_dict()
OTHER = nn.Linear(3, 2).state_dict()
OPTIMIZER = torch.optim.Adam(network().parameters()).state_dict()


def prefixed(start):
    return {f"{start}{name}": tensor for name, tensor in STATE.items()}


def equal(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


NESTED = {
    "state_dict": ({"state_dict": STATE, "epoch": 3, "arch": "r"}, "['state_dict']"),
    "model": ({"model": STATE, "optimizer": OPTIMIZER, "args": None}, "['model']"),
    "params": ({"params": STATE}, "['params']"),
    "params_ema": ({"params_ema": STATE}, "['params_ema']"),
    "ema": ({"ema": STATE}, "['ema']"),
    "model_state_dict": ({"model_state_dict": STATE, "loss": 0.5}, "['model_state_dict']"),
    "net": ({"net": STATE, "acc": 90.0, "epoch": 7}, "['net']"),
    "whatever": ({"weights of mine": STATE}, "['weights of mine']"),
    "two-deep": ({"model": {"state_dict": STATE}}, "['model']['state_dict']"),
    "of-two-networks": ({"generator": STATE, "discriminator": OTHER}, "['generator']"),
    "beside-a-tensor": ({"state_dict": STATE, "mean": torch.ones(3)}, "['state_dict']"),
    "module": (prefixed("module."), "'module.0.weight' for '0.weight'"),
    "compiled": (prefixed("_orig_mod."), "'_orig_mod.0.weight' for '0.weight'"),
    "both": (prefixed("_orig_mod.module."), "'_orig_mod.module.0.weight' for '0.weight'"),
    "both-turned": (prefixed("module._orig_mod."), "'module._orig_mod.0.weight' for '0.weight'"),
    "lightning": (
        {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
        "['state_dict'], 'model.0.weight' for '0.weight'",
    ),
    "all": (
        {"model": prefixed("module.net._orig_mod.")},
        "['model'], 'module.net._orig_mod.0.weight' for '0.weight'",
    ),
}


@pytest.mark.parametrize(("content", "said"), [*NESTED.values()], ids=[*NESTED])
def test_what_is_unwrapped_is_said_in_one_line(content, said, tmp_path, capsys):
    torch.save(content, tmp_path / "weights.pth")
    model = network(1)
    load_trained(model, str(tmp_path / "weights.pth"))
    assert equal(model, network())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "w.ckpt", "w"])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "torch-of-old"])
def test_the_content_counts_not_the_name(name, kind, tmp_path, capsys):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(STATE, path)
    elif name == "w.safetensors":
        pytest.skip("refused: see the pickle under that name among the mistakes")
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "torch")
    model = network(1)
    load_trained(model, str(path))
    assert equal(model, network())
    assert capsys.readouterr() == ("", "")


REFUSED = {
    "two": (
        {"params": STATE, "params_ema": STATE},
        r"of its entries \['params'\], \['params_ema'\] those that fit are: \['params'\], \['para",
    ),
    "none-of-two": (
        {"a": OTHER, "b": OTHER},
        r"of its entries \['a'\], \['b'\] those that fit are: none; save the one that is meant",
    ),
    "other": ({"a": OTHER}, r"\['a'\] in .* has no tensor '0\.weight'; it has 'weight', 'bias'\.$"),
    "no-tensors": ({"epoch": 3, "lr": 0.1}, r"got 'epoch' \(int\), 'lr' \(float\)\.$"),
    "nothing": ({}, r"or hold one, got nothing\.$"),
    "tensor": (torch.zeros(3), r"a mapping of names to tensors, or hold one, got Tensor\.$"),
    "a-number-among": (STATE | {"epoch": 3}, r"got 'epoch' \(int\), '0\.weight' \(Tensor\), "),
    "missing": (
        {n: t for n, t in prefixed("module.").items() if n != "module.0.bias"},
        r"has no tensor '0\.bias'; it has 'module\.0\.weight', .* and 3 more\.$",
    ),
}


@pytest.mark.parametrize(("content", "message"), [*REFUSED.values()], ids=[*REFUSED])
def test_what_does_not_fit_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as raised:
        load_trained(network(1), str(tmp_path / "weights.pth"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "torch-of-old"])
def test_a_cut_file_is_one_line(kind, share, tmp_path):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "torch")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"^.*w\.(safetensors|pth) must be a ") as raised:
        load_trained(network(1), str(path))
    assert "\n" not in str(raised.value)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["alone", "nested", "ema", "plain-pickle"])
@pytest.mark.parametrize("read", [load_tensors, lambda path: load_trained(network(), path)])
def test_nothing_is_unpickled(place, read, tmp_path):
    payload, path = Payload(tmp_path / "marker"), tmp_path / "w.pth"
    contents = {
        "alone": payload,
        "nested": {"state_dict": STATE, "extra": payload},
        "ema": {"model": STATE, "ema": nn.Linear(2, 2)},
        "plain-pickle": payload,
    }
    if place == "plain-pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(contents[place], path)
    with pytest.raises(ValueError, match=r"since reading it could run code\. Save model\.state_d"):
        read(str(path))
    assert not (tmp_path / "marker").exists()


def test_a_lone_tensor_has_no_name(tmp_path):
    images = torch.randn(2, 3)
    torch.save(images, tmp_path / "images.pt")
    ((name, read),) = load_tensors(str(tmp_path / "images.pt")).items()
    assert name == ""
    assert torch.equal(read, images)
    torch.save(3, tmp_path / "number.pt")
    with pytest.raises(ValueError, match=r"must hold a tensor or tensors by names, got int\.$"):
        load_tensors(str(tmp_path / "number.pt"))
