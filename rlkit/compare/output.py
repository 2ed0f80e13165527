"""A comparison for people: the table in the terminal, and the page report.html."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlkit.compare.results import FEW_SEEDS, Comparison, Group, Side, Versus
from rlkit.maths.statistics import Estimate
from rlkit.report.page import Cell, Chart, Curve, Page
from rlkit.runs.field_docs import as_override

EXPLANATION = (
    "Returns are those of the final evaluations, over seeds; brackets are 95 % intervals by the stratified percentile "
    "bootstrap, and IQM is the mean without the lowest and the highest quarter of the runs (Agarwal et al. 2021). The "
    "probability of improvement is that of a run of the first side ending better than one of the other, ties counting "
    "as half. Times and memory are medians over runs; seconds are of training alone, without evaluations, start-up and "
    "imports, and memory is that of the whole process."
)


def shown(value: float | None, digits: int = 1) -> str:
    """Returns a number with its thousands apart, and small ones with three decimals; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{3 if 0 < abs(value) < 1 and digits == 1 else digits}f}"


def estimate(found: Estimate, digits: int = 1) -> str:
    """Returns a number with its interval in brackets."""
    if found.low is None:
        return shown(found.value, digits)
    return f"{shown(found.value, digits)} [{shown(found.low, digits)}, {shown(found.high, digits)}]"


def rows_of(group: Group) -> list[list[str]]:
    """Makes the table of a group: a row per measure, and a column per side."""

    sides = group.sides
    rows = [
        ["final return, mean [95 %]", *(estimate(side.mean) for side in sides)],
        ["final return, IQM [95 %]", *(estimate(side.iqm) for side in sides)],
        ["lowest – highest run", *(f"{shown(min(side.returns))} – {shown(max(side.returns))}" for side in sides)],
        ["steps per second", *(_with_ratio(group, side) for side in sides)],
        ["CPU seconds", *(shown(side.cpu_s) for side in sides)],
        ["peak memory, MiB", *(shown(side.peak_memory_mib, 0) for side in sides)],
    ]
    if group.threshold is not None:
        rows.insert(5, [f"seconds to {group.threshold:g}", *(_time_to_threshold(side) for side in sides)])
    return rows


def _with_ratio(group: Group, side: Side) -> str:
    text, first = shown(side.steps_per_second, 0), group.sides[0]
    if side is not first and side.steps_per_second and first.steps_per_second:
        times = first.steps_per_second / side.steps_per_second
        text += f" ({times:.1f} × slower)" if times >= 1 else f" ({1 / times:.1f} × faster)"
    return text


def _time_to_threshold(side: Side) -> str:
    count = f"{side.reached} of {len(side.returns)} runs"
    return f"{shown(side.seconds_to_threshold)} ({count})" if side.reached else f"never ({count})"


def sentences_of(group: Group) -> list[str]:
    """Says how the first side stands to each other one."""
    found = []
    for versus in group.versus:
        speed = f", {versus.speed:.1f} × its steps per second" if versus.speed else ""
        found.append(
            f"{versus.ours} against {versus.theirs}: {_verdict(group, versus)}, by {estimate(versus.difference)}; "
            f"probability of improvement {estimate(versus.probability_of_improvement, 2)}{speed}"
        )
    return found


def _verdict(group: Group, versus: Versus) -> str:
    """Says what the interval of the difference says, if there are enough seeds for one that can be believed."""
    seeds = min(len(side.returns) for side in group.sides if side.name in (versus.ours, versus.theirs))
    low, high = versus.difference.low, versus.difference.high
    if low is None or high is None or seeds < FEW_SEEDS:
        return f"{seeds} {'seed' if seeds == 1 else 'seeds'}, too few for a conclusion; the mean return differs"
    if low > 0:
        return "a higher mean return"
    return "a lower mean return" if high < 0 else "mean returns do not differ outside the interval"


def terminal_text(comparison: Comparison) -> str:
    """Returns the tables of all groups, with warnings and differences, for the terminal."""
    lines: list[str] = []
    for group in comparison.groups:
        lines += ["", f"{group.title}  ({_runs(group)})"]
        lines += _columns([["", *(_titled(side) for side in group.sides)], *rows_of(group)])
        lines += sentences_of(group)
        lines += [f"warning: {warning}" for warning in group.warnings]
    for whole in comparison.overall:
        lines += ["", _overall_sentence(whole)]
    lines += [f"warning: {warning}" for warning in comparison.warnings]
    lines += [f"not equal: {note}" for note in all_notes(comparison)]
    return "\n".join(lines).lstrip("\n")


def all_notes(comparison: Comparison) -> list[str]:
    """Lists the differences between sides once each, those that the runs themselves found included."""
    of_sides = [note for group in comparison.groups for side in group.sides for note in side.notes]
    return list(dict.fromkeys([*comparison.notes, *of_sides]))


def _titled(side: Side) -> str:
    return side.name if side.name.startswith(side.agent) else f"{side.name} ({side.agent})"


def _runs(group: Group) -> str:
    seeds = sorted({len(side.returns) for side in group.sides})
    steps = sorted({count for side in group.sides for count in side.timesteps})
    kind = "seed" if seeds == [1] else "seeds"
    return f"{' or '.join(map(str, seeds))} {kind}, {' / '.join(f'{count:,}' for count in steps[:4])} timesteps"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _overall_sentence(whole: dict[str, Any]) -> str:
    return (
        f"over {whole['groups']} comparisons, {whole['ours']} against {whole['theirs']}: probability of improvement "
        f"{estimate(whole['probability_of_improvement'], 2)}; IQM of returns from 0, the lowest run, to 1, the "
        f"highest: {estimate(whole['iqm_ours'], 2)} against {estimate(whole['iqm_theirs'], 2)}"
    )


# The page


def page_html(comparison: Comparison) -> str:
    """Returns report.html."""
    page = Page("Comparison: " + "; ".join(group.title for group in comparison.groups)[:120])
    page.paragraph(f"{comparison.created}, on {comparison.machine}", soft=True)
    page.code(comparison.command)
    page.alarm(comparison.warnings)
    for whole in comparison.overall:
        page.paragraph(_overall_sentence(whole))
    for group in comparison.groups:
        _group(page, group)
    if notes := all_notes(comparison):
        page.heading("Not equal")
        page.paragraph("These remain different between the sides:")
        page.notes(notes)
    page.heading("How to read this")
    page.paragraph(EXPLANATION)
    page.heading("Versions")
    page.table(["package", "version"], [[name, ", ".join(found)] for name, found in comparison.versions.items()])
    return page.html()


def _group(page: Page, group: Group) -> None:
    page.heading(group.title)
    page.paragraph(_runs(group), soft=True)
    page.alarm(group.warnings)
    for sentence in sentences_of(group):
        page.paragraph(sentence)
    page.table(["", *(_titled(side) for side in group.sides)], rows_of(group))
    curves = [
        Curve(
            side.name,
            {axis: side.curve[axis] for axis in ("timesteps", "seconds")},
            side.curve["mean"],
            color,
            side.curve["low"],
            side.curve["high"],
        )
        for color, side in enumerate(group.sides)
        if side.curve
    ]
    axes = {"timesteps": "timesteps", "seconds": "seconds of training"}
    page.chart(Chart("return in evaluation: mean over seeds, 95 % interval", axes, curves, group.threshold))
    for side in group.sides:
        if side.settings:
            page.begin_details(f"the settings of {_titled(side)}")
            page.table(["field", "value"], [[key, as_override(value)] for key, value in side.settings.items()])
            page.end_details()
    page.begin_details("the runs")
    rows: list[list[str | Cell]] = [
        [side.name, Cell(str(seed), seed), Cell(shown(value, 2), value), Cell(f"{steps:,}", steps), path]
        for side in group.sides
        for seed, value, steps, path in zip(side.seeds, side.returns, side.timesteps, side.runs, strict=True)
    ]
    page.table(["side", "seed", "final return", "timesteps", "folder"], rows, sortable=True)
    page.end_details()
