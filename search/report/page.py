"""The page: one HTML file with everything in it, which asks for nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from search.folder.run_record import RunRecord
from search.front.outcome import Outcome
from search.front.result import SearchResult
from search.report.tables import front_table, layers_table, table_of
from sekron.budget import RESOURCES
from sekron.export.packages import needed
from sekron.records import write_text
from sekron.structures.diagram import diagram
from sekron.structures.families import FAMILIES

TEMPLATES = Path(__file__).parent / "template"
SCRIPTS = ("format.js", "table.js", "drawing.js", "charts.js", "page.js")

COSTS = (*RESOURCES, "latency_ms")
LACKS = 5
"""What an unfinished search lacks that is listed."""


@dataclass(frozen=True)
class Report:
    """What a page shows.

    Attributes:
        run: Path of the run folder, as its user names it.
        record: Of the run.
        result: What the search has found.
        lacks: What it lacks to be finished; nothing where it is.
        rivals: As `baselines.compare` returns them, or None.
    """

    run: str
    record: RunRecord
    result: SearchResult
    lacks: list[str]
    rivals: pd.DataFrame | None = None

    def write(self, path: Path) -> None:
        """Write the page.

        Raises:
            ImportError: If plotly or jinja2 is not installed.
            OSError: If the disk refuses; the message names the file.
        """
        write_text(path, self.html())

    def html(self) -> str:
        """Return the page as text.

        Raises:
            ImportError: If plotly or jinja2 is not installed.
        """
        plotly, packed = _plotly()
        script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
        jinja2 = needed("jinja2", "report")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        raw = needed("markupsafe", "report").Markup
        return str(
            environment.get_template("page.html").render(
                **self._words(),
                policy=f"'sha256-{_hash(script)}' 'sha256-{plotly}'",
                style=raw((TEMPLATES / "style.css").read_text(encoding="utf-8")),
                script=raw(script),
                plotly=raw(packed),
                data=raw(_json(self._data())),
            )
        )

    def _words(self) -> dict[str, Any]:
        """Return what is text, and the numbers of the best plan."""
        result, timetable = self.result, self.result.timetable
        timed = None if timetable is None else timetable.of(result.best)
        settings = asdict(self.record.settings) | {"budget": str(result.budget)}
        return {
            "run": self.run,
            "name": Path(self.run).resolve().name,
            "asked": str(result.budget),
            "best": Outcome.of(result, result.best),
            "best_runs": timed is not None and timed.runs,
            "lacks": self.lacks[:LACKS],
            "n_lacks": len(self.lacks),
            "unsupported": result.profile.unsupported,
            "source": {
                "model": self.record.source.model,
                "weights": self.record.source.weights,
                "inputs": [str(spec) for spec in self.record.source.inputs],
            },
            "settings": settings,
            "versions": self.record.versions,
            "machine": {} if timetable is None else asdict(timetable.setting),
            "dense": {
                "FLOPs": f"{result.profile.flops:,}",
                "parameters": f"{result.profile.params:,}",
                "latency": "not measured"
                if timetable is None
                else f"{timetable.network_ms:.4g} ms",
            },
            "has_rivals": self.rivals is not None,
            "has_scores": result.scores is not None,
            "has_latency": self._is_measured(),
        }

    def _data(self) -> dict[str, Any]:
        """Return what the script reads."""
        result, front = self.result, self.result.pareto_front()
        layers = layers_table(result, front)
        return {
            "front": front_table(front),
            "best": result.best_row,
            "layers": layers,
            "drawings": _drawings(front),
            "figures": {name: figure.to_plotly_json() for name, figure in self._figures().items()},
            "rivals": None
            if self.rivals is None
            else table_of(self.rivals.dropna(axis="columns", how="all")),
            "commands": [self._commands(plan.digest[:12]) for plan in front["plan"]],
        }

    def _figures(self) -> dict[str, Any]:
        result, rivals = self.result, self.rivals
        figures = {
            x: result.plot_front(x, rivals=rivals)
            for x in COSTS
            if x in RESOURCES or self._is_measured()
        }
        if result.scores is not None:
            figures["score"] = result.plot_front("flops", "score", rivals=rivals)
        figures["layers"] = result.plot_layers(result.best)
        figures["history"] = result.plot_history()
        return figures

    def _is_measured(self) -> bool:
        front = self.result.pareto_front()
        return "latency_ms" in front and not front["latency_ms"].isna().all()

    def _commands(self, digest: str) -> dict[str, str]:
        """Return what applies a plan, in a shell and in Python."""
        storage = self.record.settings.storage
        given = "" if storage is None else f" --storage {shlex.quote(storage)}"
        model = "" if self.record.source.model else " --model module:attribute"
        timetable, runtime, there = self.result.timetable, "", ""
        if timetable is not None and timetable.setting.runtime != self.record.settings.runtime:
            runtime = f" --runtime {timetable.setting.runtime}"
            there = f".in_runtime({timetable.setting.runtime!r})"
        loaded = f"{self.run!r}" if storage is None else f"{self.run!r}, {storage!r}"
        loaded += ", needs_best=False" if self.lacks else ""
        return {
            "shell": f"sekron apply {shlex.quote(self.run)} --plan {digest}{runtime}{model}{given} "
            "--output small.safetensors",
            "python": "import search, sekron\n"
            f"plan = search.load({loaded}){there}.by_digest({digest!r})\n"
            "small = plan.apply(model)  # the model that was searched\n"
            "sekron.recalibrate(small, batches)  # or repair: unlabelled batches\n"
            'sekron.save(small, "small.safetensors")',
        }


def _drawings(front: pd.DataFrame) -> dict[str, Any]:
    """Return family/length -> how such structures are drawn, for those that the plans have."""
    structures = chain.from_iterable(plan.values() for plan in front["plan"])
    kinds = {(structure.family, structure.length) for structure in structures}
    return {
        f"{family}/{length}": asdict(diagram(FAMILIES[family](length)))
        for family, length in sorted(kinds)
    }


def check_installed() -> None:
    """Refuse where a package that a page is made by is missing.

    Raises:
        ImportError: If plotly or jinja2 is not installed.
    """
    for package in ("plotly.offline", "jinja2"):
        needed(package, "report")


def _json(value: object) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@cache
def _plotly() -> tuple[str, str]:
    """Return the digest of plotly's script, and the script packed for a page."""
    script = needed("plotly.offline", "report").get_plotlyjs()
    return _hash(script), base64.b64encode(gzip.compress(script.encode(), 9, mtime=0)).decode()


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
