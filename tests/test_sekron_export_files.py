"""Exported files put out what torch does, in the runtimes that they are for."""

import sys
from dataclasses import dataclass

import onnx
import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure, export_onnx, export_openvino, export_program
from sekron.export.readers import open_onnx
from sekron.export.runtimes import make_ready
from sekron.forward.inputs import as_arguments

TEXTS = (
    "chain:12x1x3x1,1x8x1x3@5",
    "chain:12x1x1x1,1x1x3x3,1x8x1x1@5,4",
    "sekron:3x2x3x1,4x4x1x3@6",
    "sekron:3x2x3x1,2x2x1x1,2x2x1x3@3,4",
    "ring:12x1x3x1,1x8x1x3@2,3",
    "cp:12x1x1x1,1x8x1x1,1x1x3x1,1x1x1x3@6",
    "tucker:12x1x1x1,1x8x1x1,1x1x3x3@5,4",
    "chain:12x8x3x3@",
)
"""Every family on a kernel 12x8x3x3."""


class Named(nn.Module):
    """Takes several inputs by name and returns a mapping."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, image, scale=None, *, double=False):
        y = self.body(image).mean((2, 3))
        y = y if scale is None else y * scale
        return {"logits": 2 * y if double else y, "linear": [image.sum((1, 2, 3)), None]}


class Branching(nn.Module):
    def forward(self, image):
        if image.sum() > 0:
            return image
        return image + 1


class Unknown(nn.Module):
    def forward(self, image):
        return torch.kthvalue(image, 2)[0]


class OnlyThisSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(9, 9))

    def forward(self, image):
        return image + self.places


@dataclass
class Found:
    logits: torch.Tensor
    count: int


class Putting(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.body, self.wrap = nn.Linear(3, 4), wrap

    def forward(self, image):
        return self.wrap(self.body(image))


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda y: (y, y.shape[-1], "text"), "output_0"),
        (lambda y: {"logits": y, "loss": None, "count": 4, 0: 0.5}, "logits"),
        (lambda y: Found(y, 3), "logits"),
    ],
    ids=["tuple", "mapping", "data class"],
)
def test_what_is_put_out_besides_tensors_is_left_out(tmp_path, wrap, name):
    network, x = Putting(wrap), torch.randn(2, 3)
    file = export_onnx(network, x, tmp_path / "a.onnx")
    assert dict(file.inputs) == {"image": ("batch", 3)}
    assert dict(file.outputs) == {name: ("batch", 4)}
    (output,) = make_ready("openvino", network, as_arguments(x)).run(as_arguments(x))
    torch.testing.assert_close(output, network.body(x))


def applied(model, **texts):
    torch.manual_seed(0)
    plan = Plan({name.strip("_"): Structure.parse(text) for name, text in texts.items()})
    return plan.apply(model)


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


class Branches(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, image):
        return tuple(branch(image) for branch in self.branches)


def check_all(small, image, tmp_path):
    training = small.training
    for function, name in (
        (export_onnx, "a.onnx"),
        (export_openvino, "a.xml"),
        (export_program, "a.pt2"),
    ):
        file = function(small, image, tmp_path / name)
        assert (tmp_path / name).is_file()
        assert file.difference < 1e-4
        assert dict(file.inputs) == {"image": ("batch", 8, "height", "width")}
    assert small.training is training
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", "a.xml", "a.bin", "a.pt2"}


@pytest.mark.slow
def test_every_family_at_strides_and_paddings(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 12, 3, stride=1 + i % 2, padding=i // 4) for i in range(len(TEXTS))]
    plan = {f"branches.{i}": Structure.parse(text) for i, text in enumerate(TEXTS)}
    small = Plan(plan).apply(Branches(layers))
    check_all(small, torch.randn(2, 8, 13, 11), tmp_path)


@pytest.mark.slow
def test_transposed_grouped_and_other_axes(tmp_path):
    torch.manual_seed(0)
    network = Branches(
        [
            nn.Sequential(
                nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(12),
            ),
            nn.Conv2d(8, 12, 3, groups=2, padding="same", padding_mode="reflect"),
            nn.ConvTranspose2d(8, 12, 3, groups=2, stride=2, dilation=2),
            nn.Conv2d(8, 12, 3, stride=(2, 3), dilation=(1, 2)),
        ]
    )
    small = Plan(
        {
            "branches.0.0": Structure.parse("chain:8x1x4x1,1x12x1x4@9"),
            "branches.1": Structure.parse("2*sekron:6x1x3x1,1x4x1x3@2"),
            "branches.2": Structure.parse("2*sekron:4x1x3x1,1x6x1x3@3"),
            "branches.3": Structure.parse("sekron:3x2x3x1,4x4x1x3@6"),
        }
    ).apply(network)
    check_all(small, torch.randn(1, 8, 13, 16), tmp_path)


def test_undivided_layers_become_conv_nodes(tmp_path):
    network = nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1))
    small = applied(
        network, _0="tucker:12x1x1x1,1x8x1x1,1x1x3x3@5,4", _3="chain:8x1x1x1,1x12x1x1@3"
    )
    export_onnx(small, torch.randn(1, 8, 9, 9), tmp_path / "a.onnx")
    assert ops(tmp_path / "a.onnx") == ["Conv"] * 3 + ["Relu"] + ["Conv"] * 2


@pytest.mark.parametrize("given", ["positional", "named"])
def test_names_are_those_of_the_network(tmp_path, given):
    small = applied(Named(nn.Conv2d(8, 12, 3)), body=TEXTS[2])
    image, scale = torch.randn(3, 8, 9, 9), torch.randn(3, 12)
    # Names that the graph itself uses, an order that is not forward's, what is no tensor.
    example = (
        (image, scale)
        if given == "positional"
        else {"scale": scale, "image": image, "double": True}
    )
    file = export_onnx(small, example, tmp_path / "a.onnx")
    assert dict(file.outputs) == {"logits": ("batch", 12), "linear_0": ("batch",)}
    assert file.inputs["image"] == ("batch", 8, "height", "width")
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [value.name for value in graph.input] == list(file.inputs)
    assert [value.name for value in graph.output] == list(file.outputs)
    (entry,) = [value for value in graph.input if value.name == "image"]
    sizes = entry.type.tensor_type.shape.dim
    assert [s.dim_param or s.dim_value for s in sizes] == ["batch", 8, "height", "width"]
    run = open_onnx(tmp_path / "a.onnx", file.inputs)
    for n in (1, 5):
        image, scale = torch.randn(n, 8, 17, 10), torch.randn(n, 12)
        other = as_arguments(
            (image, scale) if given == "positional" else {"scale": scale, "image": image}
        )
        expected = small(image, scale, double=given == "named")["logits"]
        torch.testing.assert_close(run(other)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_size_that_the_network_fixes_is_fixed_and_images_stay_free(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 1), OnlyThisSize())
    file = export_onnx(network, torch.randn(1, 3, 9, 9), tmp_path / "a.onnx")
    assert dict(file.inputs) == {"input": ("batch", 3, 9, 9)}


class Places(nn.Module):
    """Adds a number to each of 36 places, in whatever shape they come; or to fewer."""

    def __init__(self, is_cut):
        super().__init__()
        self.places, self.is_cut = nn.Parameter(torch.randn(36)), is_cut

    def forward(self, image):
        y = image.flatten(2)
        return y + (self.places[: y.shape[-1]] if self.is_cut else self.places)


@pytest.mark.parametrize(
    ("is_cut", "sizes"), [(False, (6, 6)), (True, ("height", "width"))], ids=["all", "at most"]
)
def test_a_size_is_free_only_where_the_network_takes_another(tmp_path, is_cut, sizes):
    file = export_onnx(Places(is_cut), torch.randn(1, 3, 6, 6), tmp_path / "a.onnx")
    assert dict(file.inputs) == {"image": ("batch", 3, *sizes)}


class Squeezing(nn.Module):
    """Leaves out the axis of the images where there is one."""

    def forward(self, image):
        y = image.mean((2, 3))
        return y.squeeze(0) if y.shape[0] == 1 else y


class OfSeveral(nn.Module):
    def forward(self, image):
        if image.shape[0] == 1:
            raise ValueError("two images or more")
        return image.mean((2, 3))


EXPORTS = pytest.mark.parametrize(
    ("export", "name"),
    [(export_onnx, "a.onnx"), (export_program, "a.pt2")],
    ids=["onnx", "pt2"],
)


@EXPORTS
@pytest.mark.parametrize("n_images", [1, 3])
def test_the_number_of_images_is_fixed_where_one_is_unlike_several(
    tmp_path, export, name, n_images
):
    image = torch.randn(n_images, 3, 9, 7)
    file = export(Squeezing(), image, tmp_path / name)
    assert dict(file.inputs) == {"image": (n_images, 3, 9, 7)}
    assert file.difference < 1e-4


@EXPORTS
@pytest.mark.parametrize("network", [nn.Conv2d(3, 4, 3), OfSeveral()], ids=["any", "several"])
def test_the_number_of_images_is_free_where_one_runs_like_several_or_not_at_all(
    tmp_path, export, name, network
):
    file = export(network, torch.randn(3, 3, 9, 7), tmp_path / name)
    (shape,) = file.inputs.values()
    assert shape == ("batch", 3, "height", "width")


@EXPORTS
def test_a_network_that_no_exporter_takes(tmp_path, capfd, export, name):
    path = tmp_path / name
    with pytest.raises(
        sekron.CannotRun, match=r"test_sekron_export_files.py:\d+ in forward, `if im"
    ):
        export(Branching(), torch.randn(1, 3), path)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_node_that_onnx_does_not_have(tmp_path):
    with pytest.raises(
        ValueError, match=r"node kthvalue \(aten.kthvalue.default\): .*No ONNX func"
    ):
        export_onnx(Unknown(), torch.randn(1, 3), tmp_path / "a.onnx")


def test_outputs_that_differ_are_not_written(tmp_path):
    message = "within -1 of torch's, .* but differ by 0.0e.00; .*a.pt2 is not written"
    with pytest.raises(ValueError, match=message):
        export_program(
            nn.Conv2d(3, 8, 3), torch.randn(1, 3, 9, 9), tmp_path / "a.pt2", tolerance=-1
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("export", "missing", "extra"),
    [
        (export_onnx, "onnxscript", "onnxruntime"),
        (export_onnx, "onnxruntime", "onnxruntime"),
        (export_openvino, "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_before_anything_else(monkeypatch, export, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"package {missing} .* 'sekron\[{extra}\]'"):
        export(None, None, "nowhere/a.onnx")


def test_wrong_paths(tmp_path):
    image = torch.randn(1, 3)
    with pytest.raises(ValueError, match=r"must end in '\.xml', got"):
        export_openvino(nn.Linear(3, 3), image, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"must end in '\.pt2', got"):
        export_program(nn.Linear(3, 3), image, tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match="a folder that exists"):
        export_onnx(nn.Linear(3, 3), image, tmp_path / "no" / "a.onnx")
