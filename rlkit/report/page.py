"""A page of text, tables and interactive charts as one HTML file, which holds all that it needs.

Everything that is put into it is text and is escaped; charts are drawn by uPlot (MIT licence), which stands in
`assets/` with our own script and style.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]
LIST_UP_TO = 200
"""Length up to which numbers are written as they are; longer ones are packed in 16 bits each."""
COLORS = 8
"""Colours of the script, after which they begin again."""


@dataclass
class Curve:
    """One line of a chart, with an interval around it if both ends are given."""

    name: str
    x: Mapping[str, Numbers]
    """Places of the points on each axis that the chart can have, by the axis' key."""
    y: Numbers
    color: int = 0
    """Index of the colour."""
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass
class Chart:
    """Curves over a common axis, for which the reader can choose another one."""

    title: str
    axes: Mapping[str, str]
    """Labels of the x axes by their keys; the first one is shown at first."""
    curves: Sequence[Curve]
    level: float | None = None
    """A value at which a dashed line crosses the chart."""
    smooth: bool = False
    """Offer to smooth the curves."""


@dataclass
class Cell:
    """A cell of a table: a text, and the number by which it is sorted."""

    text: str
    value: float | None = None


def packed(values: Numbers) -> Any:
    """Returns numbers for the script: a list, or with many of them 16 bits for each between the least and the greatest.

    What is not finite becomes null. A packed number is off by at most 1/131,068 of the range; numbers at even distances
    are exact.
    """
    array = np.asarray(values, np.float64)
    steps = np.diff(array)
    if len(array) > 2 and np.all(steps == steps[0]) and math.isfinite(steps[0]):
        return {"from": float(array[0]), "step": float(steps[0]), "count": len(array)}
    if len(array) <= LIST_UP_TO:
        return [float(f"{value:.7g}") if math.isfinite(value) else None for value in array]
    finite = np.isfinite(array)
    low, high = (float(array[finite].min()), float(array[finite].max())) if finite.any() else (0.0, 1.0)
    scaled = (array - low) / ((high - low) or 1.0) * 65534
    numbers = np.where(finite, np.round(np.where(finite, scaled, 0)), 65535).astype("<u2")
    return {"q": base64.b64encode(numbers.tobytes()).decode(), "low": low, "high": high}


@dataclass
class Page:
    """A page that is put together from top to bottom, and then written as HTML."""

    title: str
    _parts: list[str] = field(default_factory=list)
    _charts: list[dict[str, Any]] = field(default_factory=list)
    _columns: dict[str, int] = field(default_factory=dict)
    """Packed numbers as JSON, each once, with their indices, by which curves name them."""

    def heading(self, text: str, level: int = 2) -> None:
        """Adds a heading."""
        self._parts.append(f"<h{level}>{_text(text)}</h{level}>")

    def paragraph(self, text: str, *, soft: bool = False) -> None:
        """Adds a paragraph; a soft one is small and grey."""
        self._parts.append(f"<p{' class=soft' if soft else ''}>{_text(text)}</p>")

    def notes(self, notes: Sequence[str]) -> None:
        """Adds a list of sentences; nothing if there are none."""
        if notes:
            self._parts.append(f"<ul class=notes>{_items(notes)}</ul>")

    def alarm(self, warnings: Sequence[str]) -> None:
        """Adds warnings in a box that cannot be overlooked; nothing if there are none."""
        if warnings:
            self._parts.append(f"<div class=alarm role=note><ul>{_items(warnings)}</ul></div>")

    def code(self, text: str) -> None:
        """Adds a text in letters of one width."""
        self._parts.append(f"<pre><code>{_text(text)}</code></pre>")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, sortable: bool = False) -> None:
        """Adds a table; columns of `Cell` are numbers, on the right."""
        numeric = [bool(rows) and all(isinstance(row[i], Cell) for row in rows) for i in range(len(heads))]
        sort = " data-sort" if sortable else ""
        head = "".join(
            f"<th{_number(is_number)}{sort}>{_text(text)}</th>" for text, is_number in zip(heads, numeric, strict=True)
        )
        body = "".join(
            f"<tr>{''.join(_cell(cell, is_number) for cell, is_number in zip(row, numeric, strict=True))}</tr>"
            for row in rows
        )
        kind = " class=sortable" if sortable else ""
        table = f"<table{kind}><thead><tr class=head>{head}</tr></thead><tbody>{body}</tbody></table>"
        self._parts.append(f"<div class=scroll>{table}</div>")

    def chart(self, chart: Chart) -> None:
        """Adds a chart; nothing if it has no curves."""
        if not chart.curves:
            return
        self._parts.append(
            f"<figure data-chart={len(self._charts)}><figcaption>{_text(chart.title)}</figcaption></figure>"
        )
        self._charts.append(
            {
                "axes": dict(chart.axes),
                "level": chart.level,
                "smooth": chart.smooth,
                "curves": [self._curve(curve) for curve in chart.curves],
            }
        )

    def _curve(self, curve: Curve) -> dict[str, Any]:
        """Returns a curve for the script, whose numbers are indices into the page's columns."""
        found: dict[str, Any] = {
            "name": curve.name,
            "color": curve.color % COLORS,
            "x": {key: self._column(values) for key, values in curve.x.items()},
            "y": self._column(curve.y),
        }
        if curve.low is not None and curve.high is not None:
            found |= {"low": self._column(curve.low), "high": self._column(curve.high)}
        return found

    def _column(self, values: Numbers) -> int:
        text = json.dumps(packed(values), separators=(",", ":"), allow_nan=False)
        return self._columns.setdefault(text, len(self._columns))

    def begin_details(self, summary: str) -> None:
        """Begins a part that is folded away at first, up to `end_details`."""
        self._parts.append(f"<details><summary>{_text(summary)}</summary>")

    def end_details(self) -> None:
        """Ends a part that is folded away."""
        self._parts.append("</details>")

    def film(self, content: bytes, kind: str, caption: str) -> None:
        """Adds a film or a moving picture, whose bytes are part of the page; `kind` is its media type."""
        source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        element = (
            f'<video controls muted loop playsinline preload=metadata src="{source}"></video>'
            if kind.startswith("video/")
            else f'<img class=picture alt="{_text(caption)}" src="{source}">'
        )
        self._parts.append(f"<figure><figcaption>{_text(caption)}</figcaption>{element}</figure>")

    def html(self) -> str:
        """Returns the whole page."""
        assets = resources.files("rlkit.report") / "assets"
        read = {
            name: (assets / name).read_text(encoding="utf-8")
            for name in ("page.css", "page.js", "uPlot.min.css", "uPlot.iife.min.js", "uPlot-LICENSE.txt")
        }
        charts = json.dumps(self._charts, separators=(",", ":"), allow_nan=False)
        data = f'{{"columns":[{",".join(self._columns)}],"charts":{charts}}}'.replace("<", "\\u003c")
        body = "\n".join(self._parts)
        scripts = f"""
<noscript><p class=alarm>The charts are drawn by a script, which this browser does not run.</p></noscript>
<script type="application/json" id="charts">{data}</script>
<script>/* uPlot. {read["uPlot-LICENSE.txt"]} */
{read["uPlot.iife.min.js"]}</script>
<script>{read["page.js"]}</script>"""
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data:; media-src data:">
<title>{_text(self.title)}</title>
<style>{read["uPlot.min.css"]}
{read["page.css"]}</style>
</head>
<body>
<h1>{_text(self.title)}</h1>
{body}
{scripts}
</body>
</html>
"""


def _text(text: object) -> str:
    return html.escape(str(text))


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{_text(text)}</li>" for text in texts)


def _number(is_number: bool) -> str:
    return " class=number" if is_number else ""


def _cell(cell: str | Cell, is_number: bool) -> str:
    if isinstance(cell, str):
        return f"<td{_number(is_number)}>{_text(cell)}</td>"
    value = "" if cell.value is None or not math.isfinite(cell.value) else f' data-value="{cell.value!r}"'
    return f"<td{_number(is_number)}{value}>{_text(cell.text)}</td>"
