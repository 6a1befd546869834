"""Networks that say something about every place of an image: boxes, labels, pixels, frames."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.survey.made import Networks, images


def _unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, SiLU: what a YOLO is made of."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(inplace=True),
    )


class C2f(nn.Module):
    """Halves of the channels through a chain of bottlenecks; every link goes into the output."""

    def __init__(self, inputs: int, outputs: int, n: int, *, shortcut: bool = False) -> None:
        super().__init__()
        self.half, self.shortcut = outputs // 2, shortcut
        self.cv1 = _unit(inputs, outputs)
        self.cv2 = _unit((2 + n) * self.half, outputs)
        self.m = nn.ModuleList(
            nn.Sequential(_unit(self.half, self.half, 3), _unit(self.half, self.half, 3))
            for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        links = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            y = bottleneck(links[-1])
            links.append(links[-1] + y if self.shortcut else y)
        return self.cv2(torch.cat(links, 1))


class SPPF(nn.Module):
    """The same maximum over windows of 5, 9 and 13 places, one pooling on top of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = _unit(width, width // 2), _unit(2 * width, width)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, width, H, W)` to the same shape."""
        found = [self.cv1(x)]
        for _ in range(3):
            found.append(self.pool(found[-1]))
        return self.cv2(torch.cat(found, 1))


class Detect(nn.Module):
    """A head for each of three levels; sides of boxes are means of distributions over 16 bins.

    The centres of the cells are kept between calls, as ultralytics does.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, bins: int = 16) -> None:
        super().__init__()
        self.bins, self.shape, self.centres = bins, None, torch.empty(0)
        self.boxes = nn.ModuleList(
            nn.Sequential(_unit(w, 64, 3), _unit(64, 64, 3), nn.Conv2d(64, 4 * bins, 1))
            for w in widths
        )
        self.classes = nn.ModuleList(
            nn.Sequential(_unit(w, 80, 3), _unit(80, 80, 3), nn.Conv2d(80, classes, 1))
            for w in widths
        )
        self.mean = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.mean.weight.data[:] = torch.arange(float(bins)).view(1, bins, 1, 1)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return corners and scores of all cells, `(N, 4 + classes, cells)`, and the raw levels."""
        pairs = [
            (box(x), of(x)) for box, of, x in zip(self.boxes, self.classes, levels, strict=True)
        ]
        raw = [torch.cat(pair, 1) for pair in pairs]
        if self.shape != levels[0].shape:
            self.shape, self.centres = levels[0].shape, self._centres(levels)
        flat = torch.cat([level.flatten(2) for level in raw], 2)
        sides, scores = flat.split((4 * self.bins, flat.shape[1] - 4 * self.bins), 1)
        bins = sides.unflatten(1, (4, self.bins)).transpose(1, 2).softmax(1)
        before, after = self.mean(bins).squeeze(1).chunk(2, 1)
        boxes = torch.cat((self.centres - before, self.centres + after), 1)
        return torch.cat((boxes, scores.sigmoid()), 1), raw

    def _centres(self, levels: list[Tensor]) -> Tensor:
        found = []
        for level in levels:
            rows, columns = (torch.arange(n) + 0.5 for n in level.shape[2:])
            found.append(torch.stack(torch.meshgrid(columns, rows, indexing="xy")).flatten(1))
        return torch.cat(found, 1)


class Yolo(nn.Module):
    """A detector in the manner of YOLOv8: C2f and SPPF, features up and down again, three heads."""

    def __init__(self, width: int = 16, classes: int = 20) -> None:
        super().__init__()
        w2, w4, w8, w16 = (width * k for k in (2, 4, 8, 16))
        self.stem = nn.Sequential(_unit(3, width, 3, 2), _unit(width, w2, 3, 2))
        self.c2 = C2f(w2, w2, 1, shortcut=True)
        self.c3 = nn.Sequential(_unit(w2, w4, 3, 2), C2f(w4, w4, 2, shortcut=True))
        self.c4 = nn.Sequential(_unit(w4, w8, 3, 2), C2f(w8, w8, 2, shortcut=True))
        self.c5 = nn.Sequential(_unit(w8, w16, 3, 2), C2f(w16, w16, 1, shortcut=True), SPPF(w16))
        self.up4, self.up3 = C2f(w16 + w8, w8, 1), C2f(w8 + w4, w4, 1)
        self.to4, self.down4 = _unit(w4, w4, 3, 2), C2f(w4 + w8, w8, 1)
        self.to5, self.down5 = _unit(w8, w8, 3, 2), C2f(w8 + w16, w16, 1)
        self.detect = Detect((w4, w8, w16), classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map images to what `Detect` returns."""
        p3 = self.c3(self.c2(self.stem(x)))
        p4 = self.c4(p3)
        p5 = self.c5(p4)
        n4 = self.up4(torch.cat((F.interpolate(p5, scale_factor=2.0), p4), 1))
        n3 = self.up3(torch.cat((F.interpolate(n4, scale_factor=2.0), p3), 1))
        n4 = self.down4(torch.cat((self.to4(n3), n4), 1))
        n5 = self.down5(torch.cat((self.to5(n4), p5), 1))
        return self.detect([n3, n4, n5])


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class DoubleUNet(nn.Module):
    """The U-Net of the paper: convolutions in pairs, pooling, skips that may have to be padded."""

    def __init__(self, width: int = 16, depth: int = 4, classes: int = 3) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(depth + 1)]
        pairs = list(pairwise(widths))
        self.first = _twice(3, width)
        self.down = nn.ModuleList(_twice(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(_twice(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images of any size to logits and probabilities of every pixel."""
        skips = [self.first(x)]
        for down in self.down:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        y = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            skip, y = skips.pop(), up(y)
            rows, columns = (a - b for a, b in zip(skip.shape[2:], y.shape[2:], strict=True))
            y = join(torch.cat((skip, F.pad(y, (0, columns, 0, rows))), 1))
        logits = self.last(y)
        return {"logits": logits, "probabilities": logits.softmax(1)}


class DenseBlock(nn.Module):
    """Five convolutions, each on all that came before, added to the input at a fifth."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outputs = (growth, growth, growth, growth, width)
        self.convs = nn.ModuleList(
            nn.Conv2d(width + k * growth, to, 3, padding=1) for k, to in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, width, H, W)` to the same shape."""
        found = [x]
        for conv in self.convs[:-1]:
            found.append(F.leaky_relu(conv(torch.cat(found, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(found, 1))


class Residual(nn.Sequential):
    """Dense blocks in a row, added to the input at a fifth."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, width, H, W)` to the same shape."""
        return x + 0.2 * super().forward(x)


class RRDBNet(nn.Module):
    """The network of ESRGAN: residual blocks of dense blocks, then twice twice the size."""

    def __init__(self, blocks: int, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(Residual(*(DenseBlock(width, growth) for _ in range(3))) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.up1, self.up2, self.high = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to images of four times their sides."""
        first = self.first(x)
        y = first + self.body(first)
        for up in (self.up1, self.up2):
            y = F.leaky_relu(up(F.interpolate(y, scale_factor=2.0)), 0.2)
        return self.last(F.leaky_relu(self.high(y), 0.2))


class Film(nn.Module):
    """Frames of a film are images of one large batch, and meet again in convolutions over time."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.body = _unit(3, width, 3, 2), _unit(width, 2 * width, 3, 2)
        self.time = nn.Conv1d(2 * width, 2 * width, 3, padding=1)
        self.hidden, self.head = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, classes)

    def forward(self, films: Tensor) -> Tensor:
        """Map `(N, frames, 3, H, W)` to logits of every frame, `(N, frames, classes)`."""
        y = self.body(self.stem(films.flatten(0, 1))).mean((2, 3))
        y = y.unflatten(0, films.shape[:2])
        y = y + self.time(y.transpose(1, 2)).relu().transpose(1, 2)
        return self.head(self.hidden(y).relu())


NETWORKS: Networks = {
    "yolo": lambda: (Yolo(), images(128)),
    "double_unet": lambda: (DoubleUNet(), images(52)),
    "rrdbnet, 6 blocks": lambda: (RRDBNet(6), images(16)),
    "rrdbnet, 23 blocks": lambda: (RRDBNet(23), images(16)),
    "film": lambda: (Film(), torch.randn(1, 6, 3, 32, 32)),
}
