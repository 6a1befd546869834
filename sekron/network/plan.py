"""A plan: which layer gets which structure. Data, not code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from sekron.decomposition.metric import Metric
from sekron.layers.operations import DEFAULT, Form
from sekron.network.surgery import replace
from sekron.structures.structure import Structure

FORMAT, VERSION = "sekron.network.plan", 1


class Plan(Mapping[str, Structure]):
    """Layer name -> structure, for the layers to replace; all others stay as they are.

    Args:
        layers: Structures by layer name.
        forms: How to run some of them, by layer name; the others run in the default form.
        metrics: In which some weights are decomposed, by layer name. They are data of a network
            and not part of the JSON; a run folder keeps those of its search.

    Two plans are equal if their structures and forms are.

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
    ) -> None:
        self._layers = dict(layers)
        self._metrics = dict(metrics or {})
        self._forms = {name: form for name, form in (forms or {}).items() if form != DEFAULT}

    def __getitem__(self, name: str) -> Structure:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Plan):
            return self._layers == other._layers and self._forms == other._forms
        return self._layers == other

    __hash__ = None  # type: ignore[assignment]  # as any mapping

    def __repr__(self) -> str:
        return f"Plan({len(self)} layers)"

    def form(self, name: str) -> Form:
        """Return how a layer is run."""
        return self._forms.get(name, DEFAULT)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a new network with the planned layers decomposed; the original is untouched.

        Raises:
            ValueError: If the plan does not fit; the first layer that differs is named.
        """
        return replace(model, self, self._forms, metrics=self._metrics)

    def within(self, metrics: Mapping[str, Metric]) -> Plan:
        """Return the same plan, its weights to be decomposed in other metrics."""
        return Plan(self._layers, self._forms, metrics)

    def to_json(self) -> str:
        """Return the plan as text."""
        layers = {name: self._entry(name) for name in self}
        return json.dumps({"format": FORMAT, "version": VERSION, "layers": layers}, indent=2)

    def _entry(self, name: str) -> str | dict[str, Any]:
        structure, form = str(self[name]), self.form(name)
        return structure if form == DEFAULT else {"structure": structure, **asdict(form)}

    @classmethod
    def from_json(cls, text: str, source: str = "the plan") -> Plan:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            source: What to call it in an error.

        Raises:
            ValueError: If it is damaged; the message says where.
        """
        try:
            data: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source} must be JSON, but line {error.lineno} is not.") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{source} must have 'format': {FORMAT!r}; it is no plan of ours.")
        if data.get("version") != VERSION:
            raise ValueError(
                f"{source} must have version {VERSION}, got {data.get('version')!r}; "
                "use the release that wrote it."
            )
        if not isinstance(data.get("layers"), dict):
            raise ValueError(f"{source} must have 'layers', a mapping of layer to structure.")
        layers, forms = {}, {}
        for name, entry in data["layers"].items():
            try:
                layers[name], forms[name] = _read(entry)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{source}, layer {name!r}: {error}") from error
        return cls(layers, forms)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`.

        Raises:
            ValueError: If the file is damaged.
            FileNotFoundError: If there is none.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be JSON, but is not text.") from error
        return cls.from_json(text, str(path))


def _read(entry: Any) -> tuple[Structure, Form]:
    if isinstance(entry, str):
        return Structure.parse(entry), DEFAULT
    if not isinstance(entry, dict) or set(entry) != {"structure", "order", "matmul"}:
        raise ValueError(
            "a layer must be a structure, or have 'structure', 'order' and 'matmul', "
            f"got {entry!r}."
        )
    structure = Structure.parse(str(entry["structure"]))
    order, matmul = entry["order"], entry["matmul"]
    if not isinstance(matmul, bool):
        raise ValueError(f"'matmul' must be true or false, got {matmul!r}.")
    if order is None:
        return structure, Form(None, matmul)
    whole = isinstance(order, list) and all(type(k) is int for k in order)
    if not whole or sorted(order) != list(range(structure.length)):
        raise ValueError(
            f"'order' must name each of the {structure.length} factors once, got {order!r}."
        )
    return structure, Form(tuple(order), matmul)
