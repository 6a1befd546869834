"use strict";

const THEMES = {
  light: { ink: "#1b1f24", line: "#dfe3e8" },
  dark: { ink: "#e8eaed", line: "#363c45" },
};
const FRONTS = ["flops", "params", "latency_ms", "score"].filter((name) => name in data.figures);
const charts = {};
const marks = {};

/** Unpack plotly, which is in the page, and draw all figures. */
async function drawCharts(pick) {
  const bytes = Uint8Array.from(atob(at("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(made("script", await new Response(stream).text()));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => (dark.matches ? "dark" : "light");
  for (const [name, figure] of Object.entries(data.figures)) {
    if (!at(`chart-${name}`)) continue;
    const { template, ...layout } = figure.layout;
    const options = { displayModeBar: false, responsive: true };
    await Plotly.newPlot(`chart-${name}`, figure.data, { ...layout, dragmode: false }, options);
    charts[name] = at(`chart-${name}`);
    if (FRONTS.includes(name)) addMark(name);
    charts[name].on("plotly_click", ({ points }) => {
      if (Number.isInteger(points[0].customdata)) pick(points[0].customdata);
    });
  }
  const dress = (which) => Object.keys(charts).forEach((name) => dressed(name, THEMES[which]));
  dress(theme());
  dark.addEventListener("change", () => dress(theme()));
  addEventListener("beforeprint", () => dress("light"));
  addEventListener("afterprint", () => dress(theme()));
  at("log-x").addEventListener("change", (event) => setAxis("x", event.target.checked));
  at("log-y").addEventListener("change", (event) => setAxis("y", event.target.checked));
}

/** Lay a ring over a front. Plotly would draw the whole front again to move a point of its own. */
function addMark(name) {
  const ring = made("div", "", "mark");
  charts[name].append(ring);
  marks[name] = { ring, x: null, y: null };
  charts[name].on("plotly_afterplot", () => placeMark(name));
}

function placeMark(name) {
  const { ring, x, y } = marks[name];
  const { xaxis, yaxis } = charts[name]._fullLayout;
  const known = x !== null && y !== null && (xaxis.type !== "log" || x > 0) && (yaxis.type !== "log" || y > 0);
  ring.hidden = !known;
  if (!known) return;
  ring.style.transform = `translate(${xaxis._offset + xaxis.d2p(x)}px, ${yaxis._offset + yaxis.d2p(y)}px)`;
}

function dressed(name, { ink, line }) {
  const grid = { gridcolor: line, linecolor: line };
  const layout = {
    font: { color: ink, size: 12, family: "system-ui, sans-serif" },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
  };
  for (const axis of ["xaxis", "yaxis"]) {
    for (const [key, value] of Object.entries(grid)) layout[`${axis}.${key}`] = value;
  }
  Plotly.relayout(charts[name], layout);
}

/** Make an axis of the fronts logarithmic or linear, and move the notes along. */
function setAxis(letter, log) {
  for (const name of FRONTS.filter((front) => letter === "x" || front !== "score")) {
    const chart = charts[name];
    const changes = { [`${letter}axis.type`]: log ? "log" : "linear", [`${letter}axis.autorange`]: true };
    chart.layout.annotations?.forEach((note, index) => {
      if (note[`${letter}ref`] === "paper") return;
      const limit = chart.layout.shapes[index][`${letter}0`];
      changes[`annotations[${index}].${letter}`] = log ? Math.log10(limit) : limit;
    });
    Plotly.relayout(chart, changes);
  }
}

/** Mark a plan in every front. */
function markInCharts(row) {
  for (const name of FRONTS.filter((front) => front in charts)) {
    const y = name === "score" ? row.score : row.error;
    const x = name === "score" ? row.flops : row[name] ?? row.predicted_ms ?? null;
    Object.assign(marks[name], { x, y });
    placeMark(name);
  }
}

let waiting = null;

/** Show the layers' shares, once the page is painted: while a slider moves, those of its end. */
function showShares(layers) {
  if (!charts.layers) return;
  if (waiting === null) requestAnimationFrame(() => setTimeout(drawShares, 0));
  waiting = layers;
}

function drawShares() {
  const texts = waiting.map(({ layer, structure, flops_share_after: share }) => (
    `<b>${escaped(layer)}</b><br>${written(share, "share")} of the FLOPs after<br>${structure || "dense"}`
  ));
  const shares = waiting.map((layer) => layer.flops_share_after);
  waiting = null;
  Plotly.restyle(charts.layers, { y: [shares], hovertext: [texts] }, [1]);
  charts.layers.dataset.plan = shown;
}
