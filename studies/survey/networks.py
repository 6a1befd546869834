"""The networks of the survey, with fresh weights, each with an input to count on."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sekron
from studies.survey import computed_weights, dense_prediction, hugging_face, several_inputs
from studies.survey.made import Made, Networks, images


def _torchvision(name: str, size: int = 96, **settings: Any) -> Made:
    import torchvision  # noqa: PLC0415  heavy, and needed by some of the networks only

    return torchvision.models.get_model(name, weights=None, **settings), images(size)


def _segmenter(name: str) -> Made:
    network, images = _torchvision(name, weights_backbone=None)
    return Chosen(network, "out"), images


def _detector(name: str) -> Made:
    network, images = _torchvision(name, weights_backbone=None)
    return Pyramid(network), images


def _video(name: str) -> Made:
    network, _ = _torchvision(name)
    # It only fixes the extents of the kernel.
    sekron.register(type(network.layer1[0].conv1[0]))
    return network, torch.randn(1, 3, 8, 56, 56)


def _timm(name: str, size: int = 96, **settings: Any) -> Made:
    import timm  # noqa: PLC0415  as above

    return timm.create_model(name, pretrained=False, **settings), images(size)


def _folded(name: str) -> Made:
    """A network with standardised weights, these computed once: what to do before a compression."""
    from timm.layers import ScaledStdConv2d  # noqa: PLC0415  as above

    network, images = _timm(name)
    for parent in list(network.modules()):
        for place, child in list(parent.named_children()):
            if isinstance(child, ScaledStdConv2d):
                setattr(parent, place, _plain(child))
    return network, images


@torch.no_grad()
def _plain(standardized: Any) -> nn.Conv2d:
    options = {
        name: getattr(standardized, name) for name in ("stride", "padding", "dilation", "groups")
    }
    conv = nn.Conv2d(
        standardized.in_channels,
        standardized.out_channels,
        standardized.kernel_size,
        bias=standardized.bias is not None,
        **options,
    )
    rows = standardized.weight.flatten(1)
    variances, means = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
    gains = (standardized.gain * standardized.scale).flatten(1)
    scaled = (rows - means) * (variances + standardized.eps).rsqrt() * gains
    conv.weight.copy_(scaled.reshape_as(conv.weight))
    if conv.bias is not None:
        conv.bias.copy_(standardized.bias)
    return conv


def _encoder() -> Made:
    import transformers  # noqa: PLC0415  as above

    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=768,
        return_dict=False,
    )
    return transformers.BertModel(config), torch.randint(0, 1000, (1, 48))


def _decoder() -> Made:
    import transformers  # noqa: PLC0415  as above

    config = transformers.GPT2Config(
        vocab_size=1000,
        n_embd=192,
        n_layer=4,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        return_dict=False,
    )
    return transformers.GPT2Model(config), torch.randint(0, 1000, (1, 48))


class Translator(nn.Module):
    """Torch's own encoder and decoder, the latter with a causal mask, between linear layers."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.table = nn.Embedding(500, width)
        self.body = nn.Transformer(width, 4, 2, 2, 4 * width, batch_first=True)
        self.head = nn.Linear(width, 500)

    def forward(self, words: Tensor) -> Tensor:
        """Map word numbers to logits of every word."""
        causal = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        x = self.table(words)
        return self.head(self.body(x, x.flip(1), tgt_mask=causal, tgt_is_causal=True))


class Chosen(nn.Module):
    """One entry of a network whose output is a mapping."""

    def __init__(self, network: nn.Module, key: str) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x: Tensor) -> Tensor:
        """Return the entry."""
        found: Tensor = self.network(x)[self.key]
        return found


class Pyramid(nn.Module):
    """A detector up to what its boxes are picked from: one head, called on every level."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return scores, boxes and centres of all levels."""
        return list(self.head(list(self.backbone(x).values())).values())


class Audio(nn.Module):
    """Convolutions over a waveform: strided, dilated, grouped, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 32, 80, stride=4)
        self.dilated = nn.ModuleList(
            nn.Conv1d(32 if d == 1 else 64, 128, 3, padding="same", dilation=d) for d in (1, 2, 4)
        )
        self.grouped = nn.Conv1d(64, 96, 5, stride=2, groups=4)
        self.norm = nn.BatchNorm1d(96)
        self.body, self.head = nn.Linear(96, 128), nn.Linear(128, 35)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, 1, samples)` to logits."""
        x = F.max_pool1d(self.stem(x).relu(), 4)
        for layer in self.dilated:
            x = F.glu(layer(x), dim=1)
        x = self.norm(self.grouped(x)).relu().mean(2)
        return self.head(self.body(x).relu())


class UNet(nn.Module):
    """Down by strides, up by transposed convolutions, with skips between."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(4 * width, 4 * width, 3, padding=1, padding_mode="reflect")
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.join1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits of every pixel."""
        first = self.stem(x).relu()
        second = self.down1(first).relu()
        y = self.middle(self.down2(second).relu()).relu()
        y = self.join2(torch.cat((self.up2(y), second), dim=1)).relu()
        y = self.join1(torch.cat((self.up1(y), first), dim=1)).relu()
        return self.last(y)


class Tagger(nn.Module):
    """An LSTM over words, and linear layers on top."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 96)
        self.recurrence = nn.LSTM(96, 96, batch_first=True)
        self.up, self.middle, self.head = (
            nn.Linear(96, 512),
            nn.Linear(512, 512),
            nn.Linear(512, 17),
        )

    def forward(self, words: Tensor) -> Tensor:
        """Map word numbers to logits of every word."""
        found, _ = self.recurrence(self.table(words))
        return self.head(self.middle(self.up(found).relu()).relu())


NETWORKS: Networks = {
    "audio": lambda: (Audio(), torch.randn(1, 1, 4000)),
    "unet": lambda: (UNet(), images(64)),
    "lstm": lambda: (Tagger(), torch.randint(0, 500, (1, 20))),
    "bert": _encoder,
    "gpt2": _decoder,
    "transformer": lambda: (Translator(), torch.randint(0, 500, (1, 24))),
    **{
        name: partial(_torchvision, name)
        for name in (
            *("resnet18", "resnet50", "resnext50_32x4d", "regnet_y_400mf", "densenet121"),
            *("vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
            *("shufflenet_v2_x1_0", "convnext_tiny", "mnasnet1_0", "squeezenet1_1"),
        )
    },
    "inception_v3": partial(
        _torchvision, "inception_v3", 128, aux_logits=False, init_weights=False
    ),
    "vit_b_16": partial(_torchvision, "vit_b_16", image_size=96),
    "swin_t": partial(_torchvision, "swin_t"),
    "swin_v2_t": partial(_torchvision, "swin_v2_t"),
    "fcos_resnet50_fpn": partial(_detector, "fcos_resnet50_fpn"),
    "deeplabv3_resnet50": partial(_segmenter, "deeplabv3_resnet50"),
    "r3d_18": partial(_video, "r3d_18"),
    **{
        f"timm/{name}": partial(_timm, name)
        for name in ("edgenext_small", "dm_nfnet_f0", "resnest14d", "convmixer_768_32")
    },
    "timm/vit_tiny_patch16_224": partial(_timm, "vit_tiny_patch16_224", img_size=96),
    "timm/nfnet_l0, folded": partial(_folded, "nfnet_l0"),
    **dense_prediction.NETWORKS,
    **several_inputs.NETWORKS,
    **computed_weights.NETWORKS,
    **hugging_face.NETWORKS,
}
"""Name -> function that makes a network and an input."""
