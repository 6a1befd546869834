"""Every runtime runs what torch runs, and says what it is and what it does not take."""

import errno
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure
from sekron.export.difference import largest_difference
from sekron.export.int8 import REPEATING, quantize_openvino
from sekron.export.one_layer import Calls, write_layer
from sekron.export.packages import quiet
from sekron.export.readers import open_onnx, read_openvino
from sekron.export.runtimes import PROVIDERS, RUNTIMES, make_ready, version_of
from sekron.forward.inputs import as_arguments
from sekron.layers.operations import Form
from sekron.network.surgery import blank_layer

ROOT = Path(__file__).parents[1]

TOLERANCES = {"onnxruntime-int8": 0.1, "openvino-int8": 0.1}
"""Of outputs that are of the size of one; 1e-4 elsewhere."""

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
MARKS = {"torch.compile": [pytest.mark.slow], **dict.fromkeys(PROVIDERS, GPU)}

names = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, [])) for name in RUNTIMES]
)


class Scaled(nn.Module):
    """Drops out while it trains; takes a second input by name, and what is no tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 12, 3)
        self.rest = nn.Sequential(nn.BatchNorm2d(12), nn.Dropout(0.5))

    def forward(self, image, scale, power=1):
        y = self.rest(self.conv(image)) * scale**power
        return {"maps": y, "means": [y.mean((2, 3))]}


class Branching(nn.Module):
    def forward(self, image):
        return torch.kthvalue(image, 2)[0] if image.sum() > 0 else image


@names
def test_a_runtime_puts_out_what_torch_does(name):
    plan = Plan({"conv": Structure.parse("sekron:3x2x3x1,4x4x1x3@6")})
    small = plan.apply(Scaled()).train()
    example = as_arguments({"scale": torch.randn(2, 1, 1, 1), "image": torch.randn(2, 8, 9, 7)})
    ready = make_ready(name, small, example)
    assert ready.runtime == name
    assert ready.version == sys.modules[re.split("[.-]", name)[0]].__version__
    assert ready.threads == torch.get_num_threads()
    assert all(module.training for module in small.modules())
    outputs = ready.run(example)
    small.eval()
    expected = small(**example.named)
    assert not any(output.requires_grad for output in outputs)
    within = {"atol": TOLERANCES.get(name, 1e-4), "rtol": 1e-4}
    torch.testing.assert_close(outputs[0], expected["maps"].detach(), **within)
    torch.testing.assert_close(outputs[1], expected["means"][0].detach(), **within)
    assert (name in TOLERANCES) == (largest_difference(outputs[:1], [expected["maps"]]) > 1e-4)
    with torch.no_grad():
        small.conv.bias.add_(1.0)  # nothing is shared
    assert torch.equal(ready.run(example)[0], outputs[0])


FORMS = {
    "chain:12x1x3x1,1x8x1x3@5": nn.Conv2d(8, 12, 3, stride=2, padding=1),
    "sekron:3x2x3x1,4x4x1x3@6": nn.Conv2d(8, 12, 3, padding="same", padding_mode="reflect"),
    "cp:12x1x1x1,1x8x1x1,1x1x3x1,1x1x1x3@4": nn.Conv2d(8, 12, 3),
    "ring:12x1x3x1,1x8x1x3@2,3": nn.Conv2d(8, 12, 3),
    "sekron:4x3x3x1,2x4x1x3@6": nn.ConvTranspose2d(8, 12, 3, stride=2),
    "chain:12x1x1,1x8x3@5": nn.Conv1d(8, 12, 3),
    "sekron:5x2,6x4@4": nn.Linear(8, 30),
}


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_calls_of_a_single_layer_in_a_runtime(name, text, matmul):
    dense, structure = FORMS[text].eval(), Structure.parse(text)
    layer = blank_layer(dense, structure, Form(None, matmul))
    sizes = (9, 8), (7, 8)  # of two calls
    if not isinstance(dense, nn.Linear):
        axes = len(structure.weight_shape) - 2
        sizes = (2, 8, *(9, 7)[:axes]), (1, 8, *(5, 6)[:axes])
    inputs = [torch.randn(size) for size in sizes]
    outputs = make_ready(name, Calls(layer), as_arguments(tuple(inputs))).run(
        as_arguments(tuple(inputs))
    )
    for output, x in zip(outputs, inputs, strict=True):
        torch.testing.assert_close(output, layer(x).detach(), atol=1e-4, rtol=1e-4)


def test_threads_of_a_session_do_not_spin_while_others_run(monkeypatch):
    """Which is what two networks in turn would wait for."""
    import onnxruntime  # noqa: PLC0415  slow

    seen, make = [], onnxruntime.InferenceSession

    def session(path, options, **rest):
        seen.append(options.get_session_config_entry("session.force_spinning_stop"))
        return make(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    make_ready("onnxruntime", nn.Linear(3, 3), as_arguments(torch.randn(1, 3)))
    assert seen == ["1"]


@pytest.mark.slow
def test_each_of_many_layers_is_compiled():
    """They share the code of `Calls`, which dynamo recompiles eight times by default."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in range(2, 14):
            x = as_arguments(torch.randn(3, width))
            make_ready("torch.compile", Calls(nn.Linear(width, 3)), x)


SIGNALS = """
import gc, os, signal, sys, torch
import onnx, onnxscript
from sekron.export.runtimes import make_ready
from sekron.forward.inputs import as_arguments

for name in sys.argv[1:]:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, name
        continue
    example = as_arguments(torch.zeros(1, 3, 8, 8))
    opened = [make_ready(name, torch.nn.Conv2d(3, 4, 3), example) for _ in range(2)]
    while opened:
        del opened[0]
        gc.collect()
    signal.signal(signal.SIGUSR1, lambda *_: print(name, "handled"))
    signal.raise_signal(signal.SIGUSR1)
    break
"""


def test_signals_are_still_handled_once_networks_are_gone():
    """Each runtime has a process of its own, forked from one that has imported what they share."""
    known = [name for name in RUNTIMES if name not in MARKS]
    command = [sys.executable, "-c", SIGNALS, *known]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} handled" for name in known], done.stderr


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8"])
def test_a_runtime_says_what_it_does_not_take(name):
    with pytest.raises(sekron.CannotRun, match=rf"^{name} must take the network, .* in forward, `"):
        make_ready(name, Branching(), as_arguments(torch.randn(1, 3)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"package {name} must be .* 'sekron\[{name}\]'\.$"):
        make_ready(name, nn.Linear(3, 3), as_arguments(torch.randn(1, 3)))


@pytest.mark.parametrize(("name", "provider"), [(n, p[0]) for n, p in PROVIDERS.items()])
def test_a_runtime_without_its_provider_or_its_device(monkeypatch, tmp_path, name, provider):
    import onnxruntime  # noqa: PLC0415  slow

    def has(*providers):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))

    has("CPUExecutionProvider")
    with pytest.raises(ImportError, match=rf"^{name} must have ONNX Runtime's {provider}, which "):
        version_of(name)
    has(*PROVIDERS[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ImportError, match=rf"^{name} must have a CUDA device, but torch sees none"):
        version_of(name)
    with quiet():
        names = write_layer(Calls(nn.Linear(3, 3)).eval(), [torch.ones(1, 3)], tmp_path / "a.onnx")
        fallen_back = "CPUExecutionProvider"  # as ONNX Runtime does without an error
        with pytest.raises(sekron.CannotRun, match=rf"^{provider} must start, but {fallen_back} "):
            open_onnx(tmp_path / "a.onnx", names, PROVIDERS[name])


def test_repeated_matrices_stay_exact_in_openvino(tmp_path):
    """For nncf they are activations, with one scale for all of a matrix; a linear layer is int8."""
    structure = Structure.parse("cp:12x1x1x1,1x8x1x1,1x1x3x1,1x1x1x3@4")
    network = nn.Sequential(
        blank_layer(nn.Conv2d(8, 12, 3), structure, Form(None, True)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_()
    images = torch.randn(4, 8, 9, 9)
    sekron.export_onnx(network, images, tmp_path / "a.onnx")
    with quiet():
        exact = read_openvino(tmp_path / "a.onnx")
        int8 = quantize_openvino(exact, [{"input": images.numpy()}])

    def is_int8(output):
        node = output.get_node()
        while node.get_type_name() in REPEATING:
            node = node.input_value(0).get_node()
        return node.get_type_name() == "FakeQuantize"

    products = [op for op in int8.get_ops() if op.get_type_name() == "MatMul"]
    sides = [tuple(is_int8(op.input_value(side)) for side in (0, 1)) for op in products]
    # Of the linear layer the input is told; its weight is stored as integers.
    assert sorted(sides) == [(False, False), (False, False), (True, False)]


def test_int8_in_openvino_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ImportError, match=r"package nncf must be .* 'sekron\[nncf\]'\.$"):
        make_ready("openvino-int8", nn.Linear(3, 3), as_arguments(torch.randn(1, 3)))


def test_a_quantizer_tells_nobody_that_it_is_used():
    text = (
        "import os\n"
        "from sekron.export.int8 import nncf\n"
        "nncf()\n"
        "from nncf.telemetry.wrapper import telemetry\n"
        "print(type(telemetry).__name__, 'NNCF_CI' in os.environ)\n"
    )
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "MagicMock False\n"  # what stands in for it


def test_an_unknown_runtime():
    with pytest.raises(
        ValueError,
        match=r"one of torch, torch\.compile, onnxruntime, onnxruntime-int8, .*openvino.*, got",
    ):
        make_ready("tensorrt", nn.Linear(3, 3), as_arguments(torch.randn(1, 3)))


@pytest.mark.parametrize("name", ["onnxruntime", "torch.compile"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError("full")])
def test_a_full_disk_or_memory_is_no_refusal(monkeypatch, name, error):
    def full(*_, **__):
        raise RuntimeError("not written") from error

    monkeypatch.setattr("sekron.export.runtimes.trace", full)
    monkeypatch.setattr("sekron.export.runtimes._in_torch", lambda *_: SimpleNamespace(run=full))
    with pytest.raises(type(error), match=str(error).split(maxsplit=2)[-1][:4]):
        make_ready(name, torch.nn.Linear(3, 3), as_arguments(torch.randn(1, 3)))
