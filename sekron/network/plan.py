"""A plan: which layer gets which structure, and in which metric. Data, not code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from torch import Tensor, nn

from sekron.columns import returns_columns
from sekron.decomposition.decompose import Decomposition, decompose
from sekron.decomposition.metric import Metric
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.figure import structure_figure
from sekron.network.network_metric import NetworkMetric, metric_path
from sekron.network.plan_frame import FRAME, plan_frame
from sekron.network.surgery import compressed
from sekron.records import check_folder, decode, encode, read_text, write_text
from sekron.structures.structure import Structure

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

FORMAT, VERSION = "sekron.plan", 2

UNTOLD = "untold"
"""Metric of a plan that was written by version 1, which did not tell."""


class FormedLayer(msgspec.Struct, forbid_unknown_fields=True):
    """A layer that does not run in the default form."""

    structure: str
    order: tuple[int, ...] | None
    matmul: bool


class PlanRecord(msgspec.Struct):
    """A plan as it is written: structures as text, and the digest of its metric."""

    layers: dict[str, str | FormedLayer]
    metric: Annotated[str, msgspec.Meta(pattern=f"^([0-9a-f]{{64}}|{UNTOLD})?$")] = ""


class Plan(Mapping[str, Structure]):
    """Layer name -> structure, for the layers to replace; all others stay as they are.

    A plan of a calibrated search belongs to a metric: its weights are decomposed in it, its errors
    are meant in it, and it is applied in no other. Plans are equal if their structures, their
    forms and their metrics are.

    Args:
        layers: Structures by layer name.
        forms: How to run some of them, by layer name; the others run in the default form.
        metrics: In which weights are decomposed, by layer name; none for the plain norm.
        decomposition: Gives the factors when the plan is applied.

    Raises:
        TypeError: If a layer is given anything but a `Structure`.

    Example:
        >>> plan = Plan({"0": Structure.parse("chain:16x1x3x1,1x8x1x3@4")})
        >>> small = plan.apply(nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU()))
        >>> sum(p.numel() for p in small.parameters())
        304
    """

    def __init__(
        self,
        layers: Mapping[str, Structure],
        forms: Mapping[str, Form] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        decomposition: Decomposition = decompose,
    ) -> None:
        self._layers = dict(layers)
        for name, structure in self._layers.items():
            if not isinstance(structure, Structure):
                raise TypeError(
                    f"layer {name!r} must get a `Structure`, got {type(structure).__name__}; "
                    "`Structure.parse` reads one from text."
                )
        self._forms = {name: form for name, form in (forms or {}).items() if form != DEFAULT_FORM}
        self._metrics = metrics if isinstance(metrics, NetworkMetric) else NetworkMetric(metrics)
        self._metric_digest = self._metrics.digest
        self._decomposition = decomposition

    def __getitem__(self, name: str) -> Structure:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Plan):
            return self.digest == other.digest
        # A mapping alone tells neither forms nor a metric.
        return not self._forms and not self._metric_digest and self._layers == other

    __hash__ = None  # type: ignore[assignment]  # as any mapping

    def __repr__(self) -> str:
        metric = f", metric {self._metric_digest[:12]}" if self._metric_digest else ""
        return f"Plan({len(self)} layers{metric})"

    @property
    def metric_digest(self) -> str:
        """Digest of the metric that the plan was made in; nothing for the plain norm."""
        return self._metric_digest

    @property
    def digest(self) -> str:
        """What tells a plan from all others: its structures, its forms and its metric."""
        record = self.to_record()
        text = msgspec.json.encode([sorted(record.layers.items()), record.metric])
        return hashlib.sha256(text).hexdigest()

    def form(self, name: str) -> Form:
        """Return how a layer is run."""
        return self._forms.get(name, DEFAULT_FORM)

    @returns_columns(*FRAME)
    def to_frame(self) -> pd.DataFrame:
        """Return the plan as a pandas frame, one row for each layer that it replaces.

        Returns:
            The columns below; flops are told by `SearchResult.layers`, which knows the images.

        Example:
            >>> plan = Plan({"0": Structure.parse("chain:16x1x3x1,1x8x1x3@4")})
            >>> plan.to_frame()[["layer", "family", "ranks", "params"]].to_dict("records")
            [{'layer': '0', 'family': 'chain', 'ranks': (4,), 'params': 288}]
        """
        return plan_frame(self._layers, self.form)

    def plot(self, layer: str) -> Figure:
        """Return a plotly figure of a layer's tensor network, the original weight beside it.

        Args:
            layer: One that the plan replaces.

        Raises:
            KeyError: If the plan leaves it dense.
            ImportError: If plotly is not installed.
        """
        if layer not in self:
            raise KeyError(
                f"the layer must be one that the plan replaces, got {layer!r}; they are the keys "
                "of the plan."
            )
        return structure_figure(self[layer])

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a new network with the planned layers decomposed; the original is untouched.

        Raises:
            ValueError: If the plan does not fit, the first layer that differs being named, or if
                the metric that it was made in is not at hand.
        """
        if self._metric_digest != self._metrics.digest:
            raise ValueError(f"{self._lack()}, or apply `plan.in_plain_error()`.")

        def factors_of(name: str, weight: Tensor, structure: Structure) -> tuple[Tensor, ...]:
            return self._decomposition(weight, structure, metric=self._metrics.get(name))

        return compressed(model, self, self._forms, factors_of)

    def _lack(self) -> str:
        if self._metric_digest == UNTOLD:
            return (
                "a plan must tell the metric that it was made in, but was written by version 1, "
                "which did not; make it again"
            )
        digest = self._metric_digest
        return (
            f"a plan must be applied in the metric that it was made in, {digest[:12]}, which is "
            f"not at hand; load it from a folder that holds {metric_path(Path(), digest)} too"
        )

    def within(self, metrics: NetworkMetric, decomposition: Decomposition = decompose) -> Plan:
        """Return the same plan with the metric that it was made in.

        Args:
            metrics: That metric.
            decomposition: Gives the factors when the plan is applied.

        Raises:
            ValueError: If it was made in another.
        """
        if metrics.digest != self._metric_digest:
            raise ValueError(
                f"a plan must be given the metric that it was made in, "
                f"{self._metric_digest[:12] or 'none'}, got {metrics.digest[:12] or 'none'}."
            )
        return Plan(self._layers, self._forms, metrics, decomposition)

    def in_plain_error(self) -> Plan:
        """Return the same structures for weights that are decomposed in the plain norm.

        They keep less than in the metric that they were chosen in.
        """
        return Plan(self._layers, self._forms)

    def to_record(self) -> PlanRecord:
        """Return the plan as it is written."""
        layers: dict[str, str | FormedLayer] = {}
        for name, structure in self._layers.items():
            form, text = self.form(name), str(structure)
            layers[name] = (
                text if form == DEFAULT_FORM else FormedLayer(text, form.order, form.matmul)
            )
        return PlanRecord(layers, self._metric_digest)

    @classmethod
    def from_record(cls, record: PlanRecord, source: str) -> Plan:
        """Return the plan of a record; its metric, if it has one, is not at hand.

        Args:
            record: As `to_record` returns it.
            source: What to call it in an error.

        Raises:
            ValueError: If a structure or an order is none; the layer is named.
        """
        layers, forms = {}, {}
        for name, entry in record.layers.items():
            try:
                layers[name], forms[name] = _formed(entry)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{source}, layer {name!r}: {error}") from error
        plan = cls(layers, forms)
        plan._metric_digest = record.metric
        return plan

    def to_json(self) -> str:
        """Return the plan as text, which names its metric."""
        return encode(self.to_record(), FORMAT, VERSION)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "the plan") -> Plan:
        """Read what `to_json` wrote, without the metric.

        Args:
            text: JSON.
            source: What to call it in an error.

        Raises:
            ValueError: If it is damaged; the message says where.
        """
        header = decode(text, _Version, FORMAT, (1, VERSION), source)
        record = decode(text, PlanRecord, FORMAT, (1, VERSION), source)
        if header.version == 1:
            record.metric = UNTOLD
        return cls.from_record(record, source)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, and its metric beside it in a file named by its digest.

        Raises:
            OSError: If the folder does not exist or the disk refuses; the message names the file.
        """
        check_folder(path)
        self._metrics.save(Path(path).parent)
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`, and its metric where that lies beside it.

        Raises:
            ValueError: If a file is damaged.
            FileNotFoundError: If there is none.
        """
        plan = cls.from_json(read_text(Path(path)), str(path))
        folder, digest = Path(path).parent, plan.metric_digest
        if not digest or digest == UNTOLD or not metric_path(folder, digest).exists():
            return plan
        return plan.within(NetworkMetric.load(folder, digest))


class _Version(msgspec.Struct):
    version: int


def _formed(entry: str | FormedLayer) -> tuple[Structure, Form]:
    if isinstance(entry, str):
        return Structure.parse(entry), DEFAULT_FORM
    structure = Structure.parse(entry.structure)
    if entry.order is not None and sorted(entry.order) != list(range(structure.length)):
        raise ValueError(
            f"'order' must name each of the {structure.length} factors once, "
            f"got {list(entry.order)!r}."
        )
    return structure, Form(entry.order, entry.matmul)
