// Draws the charts of a report with uPlot. Their data stand in the page as JSON: see `Chart` in page.py.
"use strict";

const LIGHT = ["#0b62b8", "#d9570c", "#1a8a4a", "#8c3fb5", "#b8860b", "#c2255c", "#0c8599", "#5f6b76"];
const DARK = ["#6cb2f5", "#ff9a5c", "#63d297", "#cf9bef", "#f0c75e", "#ff85ad", "#5fd4e6", "#aab5c0"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const MOST_POINTS = 1500; // of one curve on the screen
const MADE_AT_ONCE = 3; // charts

const color = (i) => (dark.matches ? DARK : LIGHT)[i % LIGHT.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const { columns, charts } = JSON.parse(document.getElementById("charts").textContent);
const unpacked = new Map();

// The numbers of a column, which is unpacked once. It is a list, or {"from", "step", "count"}, or
// {"q": base64 of 16-bit numbers, "low", "high"}, where the largest 16-bit number stands for none.
function numbers(index) {
  if (!unpacked.has(index)) unpacked.set(index, unpack(columns[index]));
  return unpacked.get(index);
}

function unpack(packed) {
  if (Array.isArray(packed)) return packed;
  if ("step" in packed) return Array.from({ length: packed.count }, (_, i) => packed.from + i * packed.step);
  const bytes = Uint8Array.from(atob(packed.q), (letter) => letter.charCodeAt(0));
  const step = (packed.high - packed.low) / 65534;
  return Array.from(new Uint16Array(bytes.buffer), (n) => (n === 65535 ? null : packed.low + n * step));
}

function shortened(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return (value / 1e6).toPrecision(4).replace(/\.?0+$/, "") + " M";
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(5)));
}

function smoothed(values, weight) {
  let last = null;
  return values.map((value) => {
    if (value == null) return null;
    last = last == null ? value : weight * last + (1 - weight) * value;
    return last;
  });
}

// The x's at which all curves are drawn: every one that a curve has, or evenly spaced ones where those are too many.
function grid(curves) {
  const all = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  if (all.length <= MOST_POINTS) return all;
  const [first, last] = [all[0], all[all.length - 1]];
  return Array.from({ length: MOST_POINTS }, (_, i) => first + ((last - first) * i) / (MOST_POINTS - 1));
}

// The values of a curve at the x's of a grid, on straight lines between its points; none outside of them.
function onto(xs, x, y) {
  let i = 0;
  return xs.map((at) => {
    while (i < x.length - 1 && x[i + 1] <= at) i++;
    if (!x.length || at < x[0] || at > x[x.length - 1]) return null;
    if (x[i] === at || i === x.length - 1) return y[i];
    return y[i] + ((y[i + 1] - y[i]) * (at - x[i])) / (x[i + 1] - x[i]);
  });
}

function present(x, y) {
  const there = y.map((value, i) => i).filter((i) => y[i] != null && x[i] != null);
  return [there.map((i) => x[i]), there.map((i) => y[i])];
}

class ChartView {
  constructor(figure, chart) {
    this.chart = chart;
    this.axis = Object.keys(chart.axes)[0];
    this.weight = 0;
    this.hidden = new Set();
    this.tools = figure.appendChild(Object.assign(document.createElement("div"), { className: "tools" }));
    this.chips = figure.appendChild(Object.assign(document.createElement("div"), { className: "tools chips" }));
    this.place = figure.appendChild(Object.assign(document.createElement("div"), { className: "plot" }));
    this.makeTools();
    this.draw();
    new ResizeObserver(() => {
      if (this.plot && Math.abs(this.plot.width - this.place.clientWidth) > 1) this.draw();
    }).observe(this.place);
  }

  button(parent, label, pressed, act) {
    const made = parent.appendChild(document.createElement("button"));
    made.type = "button";
    made.append(label);
    made.setAttribute("aria-pressed", pressed);
    made.addEventListener("click", () => act(made));
    return made;
  }

  makeTools() {
    const axes = Object.entries(this.chart.axes);
    if (axes.length > 1) {
      const buttons = axes.map(([key, label]) =>
        this.button(this.tools, `over ${label}`, key === this.axis, () => {
          this.axis = key;
          buttons.forEach((other, i) => other.setAttribute("aria-pressed", axes[i][0] === key));
          this.draw();
        }));
    }
    if (this.chart.smooth) {
      const label = this.tools.appendChild(document.createElement("label"));
      const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
      label.append("smooth ", slider);
      slider.addEventListener("input", () => { this.weight = Number(slider.value); this.draw(); });
    }
    this.chart.curves.forEach((curve, i) => {
      if (this.chart.curves.length < 2) return;
      const label = document.createElement("span");
      const dot = label.appendChild(document.createElement("i"));
      dot.dataset.color = curve.color;
      label.append(curve.name);
      this.button(this.chips, label, true, (made) => {
        this.hidden.has(i) ? this.hidden.delete(i) : this.hidden.add(i);
        made.setAttribute("aria-pressed", !this.hidden.has(i));
        this.draw();
      }).classList.add("chip");
    });
  }

  // One curve in the form of the chart's settings: its points, and the interval around them where there is one.
  curve(curve) {
    const x = numbers(curve.x[this.axis]);
    const part = (name) => present(x, smoothed(numbers(curve[name]), this.weight));
    const [xs, y] = part("y");
    const band = curve.low != null ? [part("low")[1], part("high")[1]] : null;
    return { ...curve, x: xs, y, band };
  }

  draw() {
    if (this.plot) this.plot.destroy();
    this.chips.querySelectorAll("i").forEach((dot) => { dot.style.background = color(Number(dot.dataset.color)); });
    const shown = this.chart.curves.filter((_, i) => !this.hidden.has(i)).map((curve) => this.curve(curve));
    const xs = grid(shown);
    const data = [xs], series = [{}], bands = [];
    for (const curve of shown) {
      const stroke = color(curve.color);
      if (curve.band) {
        for (const edge of [1, 0]) {
          data.push(onto(xs, curve.x, curve.band[edge]));
          series.push({ stroke: "transparent", width: 0, points: { show: false } });
        }
        bands.push({ series: [data.length - 2, data.length - 1], fill: stroke + "33" });
      }
      data.push(onto(xs, curve.x, curve.y));
      series.push({ stroke, width: 1.8, name: curve.name, points: { show: curve.x.length === 1, fill: stroke } });
    }
    const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 } };
    const options = {
      width: Math.max(260, this.place.clientWidth),
      height: Math.min(360, Math.max(240, this.place.clientWidth * 0.5)),
      scales: { x: { time: false } },
      legend: { show: false },
      series, bands,
      cursor: { y: false, points: { show: false } },
      axes: [
        { ...axis, label: this.chart.axes[this.axis], labelSize: 22, labelFont: "12px system-ui", values: (_, ticks) => ticks.map(shortened) },
        { ...axis, size: 64, values: (_, ticks) => ticks.map(shortened) },
      ],
      hooks: { setCursor: [(plot) => this.tell(plot)], drawClear: [(plot) => this.line(plot)] },
    };
    if (this.chart.level != null) options.scales.y = { range: (_, low, high) => uPlot.rangeNum(Math.min(low, this.chart.level), Math.max(high, this.chart.level), 0.1, true) };
    this.plot = new uPlot(options, data, this.place);
    this.tip = this.place.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
  }

  // A dashed line across the chart, at the return that is to be reached.
  line(plot) {
    if (this.chart.level == null) return;
    const y = plot.valToPos(this.chart.level, "y", true);
    const { left, width } = plot.bbox;
    plot.ctx.save();
    plot.ctx.strokeStyle = css("--soft");
    plot.ctx.setLineDash([6, 6]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(left, y);
    plot.ctx.lineTo(left + width, y);
    plot.ctx.stroke();
    plot.ctx.restore();
  }

  // The values below the cursor, nearest to it first.
  tell(plot) {
    if (!this.tip) return;
    const { idx, left, top } = plot.cursor;
    this.tip.hidden = idx == null || left < 0;
    if (this.tip.hidden) return;
    const here = plot.posToVal(top, "y");
    const found = plot.series
      .map((series, i) => ({ series, value: series.name == null ? null : plot.data[i][idx] }))
      .filter(({ value }) => value != null)
      .sort((a, b) => Math.abs(a.value - here) - Math.abs(b.value - here))
      .slice(0, 6)
      .sort((a, b) => b.value - a.value);
    this.tip.replaceChildren(Object.assign(document.createElement("div"), { className: "soft", textContent: `${shortened(plot.data[0][idx])} ${this.chart.axes[this.axis]}` }));
    for (const { series, value } of found) {
      const row = this.tip.appendChild(document.createElement("div"));
      const dot = row.appendChild(document.createElement("b"));
      dot.textContent = "● ";
      dot.style.color = series._stroke || series.stroke();
      row.append(`${series.name}: ${shortened(value)}`);
    }
    const offset = plot.over.offsetLeft + left;
    this.tip.style.left = `${Math.max(0, Math.min(offset + 14, this.place.clientWidth - this.tip.offsetWidth - 4))}px`;
    this.tip.style.top = `${plot.over.offsetTop + 6}px`;
  }
}

// Tables are sorted by a click on a column's head: numbers by size, other texts by letters.
function sortable(table) {
  table.querySelectorAll("th[data-sort]").forEach((head, column) => {
    let sign = 1;
    head.addEventListener("click", () => {
      const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
      const compare = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? String(a).localeCompare(b) : a - b);
      const rows = [...table.tBodies[0].rows].sort((a, b) => sign * compare(key(a), key(b)));
      table.tBodies[0].append(...rows);
      sign = -sign;
    });
  });
}

// The first charts are made at once, and each other one when it comes near to the screen: so a page of many opens soon.
const views = [];
const make = (figure) => views.push(new ChartView(figure, charts[figure.dataset.chart]));
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    make(target);
  }
}, { rootMargin: "400px" });
document.querySelectorAll("figure[data-chart]").forEach((figure, i) => (i < MADE_AT_ONCE ? make(figure) : watcher.observe(figure)));
dark.addEventListener("change", () => views.forEach((view) => view.draw()));
document.querySelectorAll("table.sortable").forEach(sortable);
