"""A network on batches: it runs in evaluation mode, and is afterwards as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sekron.forward.batches import Batches, arguments_of
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import map_tensors

Score = Callable[[nn.Module], float]
"""A function that rates a network; higher is better."""

LONGEST = 500
"""Characters of an error of the user's code that another error quotes."""

ONE_VALUE = "Expected more than 1 value per channel"
"""What torch's batch norm says of a batch that holds no variance."""

STANCE = threading.RLock()
"""Held where the compiler's stance is changed, which all threads of a process share."""


@contextmanager
def casts_anew() -> Iterator[None]:
    """Let autocast cast a weight whenever it is used, within the block, where the caller has it on.

    Else it keeps what it has cast until the caller leaves it, and sees neither that a weight was
    changed meanwhile nor that a trace has not seen it cast. One that a network itself switches on
    forgets that with each pass.
    """
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    if not any(map(torch.is_autocast_enabled, kinds)):
        yield
        return
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
        torch.clear_autocast_cache()  # of what was changed within the block


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation without gradients, and back module by module.

    Autocast, where the caller has it on, casts the weights that the network then has.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), casts_anew():
            yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def untouched(*networks: nn.Module) -> Iterator[None]:
    """Switch networks to evaluation, and put back what of their buffers forward itself changes."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(buffers_kept(network))
            stack.enter_context(evaluating(network))
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run networks that were compiled as they were written, within the block.

    One that has run compiled does not call the hooks that its modules get afterwards.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes a second
        yield
        return
    with STANCE, torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def buffers_kept(network: nn.Module, *, but: Collection[nn.Module] = ()) -> Iterator[None]:
    """Put back the buffers that forward itself changes, makes or takes away within the block.

    Args:
        network: That runs.
        but: Modules of it whose buffers shall change.
    """
    held = [_Held(module) for module in network.modules() if module not in but]
    values = [
        (buffer, buffer.clone())
        for module in held
        for buffer in module.buffers.values()
        if buffer is not None and not is_lazy(buffer) and not buffer.is_meta
    ]
    try:
        yield
    finally:
        for module in held:
            module.put_back()
        for buffer, before in values:
            # Those of other layouts cannot be compared.
            is_plain = buffer.layout == torch.strided and not buffer.is_nested
            if not is_plain or not torch.equal(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)


class _Held:
    """Which buffers a module has, and what else it holds."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.buffers = dict(module._buffers.items())
        self._not_saved = set(module._non_persistent_buffers_set)
        self._attributes = dict(vars(module))

    def put_back(self) -> None:
        """Give the module the buffers that it had, and nothing but these."""
        module, now = self._module, dict(self._module._buffers.items())
        if now.keys() == self.buffers.keys() and all(now[k] is b for k, b in self.buffers.items()):
            return
        # A number, say, by which forward knows that it has made a buffer.
        vars(module).clear()
        vars(module).update(self._attributes)
        for name in now.keys() - self.buffers.keys():
            del module._buffers[name]
        for name, buffer in self.buffers.items():
            module._buffers[name] = buffer
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(self._not_saved)


def output_of(network: nn.Module, arguments: Arguments, what: str) -> object:
    """Run a network on one batch.

    Args:
        network: The network, in the mode that it is in.
        arguments: One batch.
        what: Name of the batches, for the error.

    Raises:
        ValueError: If the network does not run; the message says on which shapes, and why.
    """
    try:
        return arguments.run(network)
    except Exception as error:  # whatever the network raises
        cure = ""
        if ONE_VALUE in said(error):
            cure = "; batch norm needs two images or more: a larger `batch_size`, or `drop_last`"
        raise ValueError(
            f"the network must run on {what}, but on {arguments} it raised {one_line(error)}{cure}"
        ) from error


def one_line(error: BaseException) -> str:
    """Return the class of an error and the first line of what it says, if it says anything."""
    first = said(error).splitlines()[:1]
    return ": ".join(
        [type(error).__name__, *(x[:LONGEST] + "…" * (len(x) > LONGEST) for x in first)]
    )


def said(error: BaseException) -> str:
    """Return what an error says; nothing where its own `__str__` raises."""
    try:
        return str(error).strip()
    except Exception:  # whatever it raises
        return ""


def must_allow_gradients(network: nn.Module) -> None:
    """Refuse to work where torch would keep no gradients.

    `torch.no_grad()` around the caller is no hindrance, since it can be taken back within.

    Args:
        network: Whose parameters the gradients are of.

    Raises:
        ValueError: If inference mode is on, or the parameters were made in it.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "gradients must be possible, but the call stands within `torch.inference_mode()`; take "
            "it out of there."
        )
    if any(parameter.is_inference() for parameter in network.parameters()):
        raise ValueError(
            "gradients must be possible, but the network was made within `torch.inference_mode()`; "
            "make or load it outside of it."
        )


def must_have_gradient(loss: Tensor) -> None:
    """Refuse a loss that no parameter has a part in.

    Raises:
        ValueError: With what the cause may be.
    """
    if not loss.requires_grad:
        raise ValueError(
            "gradients must reach the parameters, but do not: forward may run within "
            "`torch.no_grad()` or `inference_mode()`, or it or the loss may detach; take that out."
        )


def without_singles(batches: Iterable[Arguments]) -> Iterator[Arguments]:
    """Join a batch of a single image to the next one, so that batch norm finds a variance.

    The last batch of a loader may be one; it is joined to the one before. Where all are, two are
    joined, and not all of them.
    """
    before: Arguments | None = None
    last: Arguments | None = None
    for batch in batches:
        joined = last.joined(batch) if last is not None and len(last) == 1 else None
        if joined is not None:
            last = joined
            continue
        if before is not None:
            yield before
        before, last = last, batch
    if before is not None and last is not None and len(last) == 1:
        joined = before.joined(last)
        before, last = (before, last) if joined is None else (None, joined)
    yield from (batch for batch in (before, last) if batch is not None)


def inputs_of(
    batches: Batches, network: nn.Module, what: str, example: Arguments | None = None
) -> Iterator[Arguments]:
    """Yield the arguments of the network's forward, one batch after another.

    Args:
        batches: As `arguments_of` reads them, one by one.
        network: That takes them.
        what: Name of the batches, for the errors.
        example: Arguments of the same kind, where there is one.

    Raises:
        ValueError: If there is no batch, one has no images or holds NaN, a lone tensor Inf; and as
            `arguments_of` does.
    """
    if isinstance(batches, Tensor):
        raise ValueError(f"{what} must be a list or a loader of batches, got one tensor.")
    try:
        iterator = iter(batches)
    except TypeError as error:
        raise ValueError(
            f"{what} must be a list or a loader of batches, got {type(batches).__name__}."
        ) from error
    n_batches = 0
    for batch in iterator:
        arguments = arguments_of(batch, network, what, example)
        _check(arguments, what)
        if any(tensor.is_inference() for tensor in arguments.tensors):
            arguments = map_tensors(Tensor.clone, arguments)  # those take part in no gradient
        n_batches += 1
        yield arguments
    if n_batches == 0:
        raise ValueError(f"{what} must hold at least one batch, got none.")


def _check(arguments: Arguments, what: str) -> None:
    """Refuse what holds no images, and numbers that are none; a mask may well be infinite."""
    tensors = arguments.tensors
    if not tensors or tensors[0].dim() == 0 or any(t.shape[:1] == (0,) for t in tensors):
        raise ValueError(f"{what} must hold images, got a batch of shape {arguments}.")
    is_wrong = torch.isnan if len(tensors) > 1 else lambda tensor: ~torch.isfinite(tensor)
    if any(is_wrong(tensor).any() for tensor in tensors):
        raise ValueError(f"{what} must be finite, got NaN or Inf in a batch.")
