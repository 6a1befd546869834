"""The classes of layers that are listed, and replaced or left dense with a reason."""

from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Their weight is `(in, out, kernel…)`, that of all others `(out, in, kernel…)`."""

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)
"""What is listed; subclasses too, each with the reason why it is left dense."""
