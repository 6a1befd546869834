"use strict";

const columnsOf = (table) => table.columns.map((column) => column.name);
const asObject = (columns, values) => Object.fromEntries(columns.map((name, i) => [name, values[i]]));

const nPlans = data.front.rows.length;
const frontTable = new SortableTable("front", data.front.columns, show);
const layersTable = new SortableTable("layers", data.layers.columns);
let shown = data.best ?? nPlans - 1; // another plan may beat the best one in all

/** Show one plan everywhere. */
function show(plan) {
  shown = Math.min(Math.max(plan, 0), nPlans - 1);
  const row = asObject(columnsOf(data.front), data.front.rows[shown]);
  const rows = data.layers.plans[shown].map((choice, layer) => data.layers.choices[layer][choice]);
  const layers = rows.map((values) => asObject(columnsOf(data.layers), values));
  const title = `plan ${shown}${shown === data.best ? " (best)" : ""}`;
  // What looks at the layout of the page comes before what changes it: so it is laid out once.
  markInCharts(row);
  frontTable.mark(shown);
  at("slider").value = shown;
  at("slider").setAttribute("aria-valuetext", title);
  at("which").textContent = `plan ${shown} of ${nPlans}`;
  document.querySelectorAll(".shown-plan").forEach((element) => { element.textContent = title; });
  showNumbers(data.front.rows[shown]);
  layersTable.fill(rows);
  showDrawings(layers);
  at("shell").textContent = data.commands[shown].shell;
  at("python").textContent = data.commands[shown].python;
  showShares(layers);
}

function showNumbers(values) {
  at("numbers").replaceChildren(...data.front.columns.slice(1).map((column, index) => {
    const pair = made("div");
    const number = made("dd", written(values[index + 1], column.kind));
    number.dataset.column = column.name;
    pair.title = column.meaning;
    pair.append(made("dt", column.title), number);
    return pair;
  }));
}

const drawn = new Map();

/** Return the drawing of a layer's structure, the same one for all plans that have it. */
function card({ layer, structure, weight_shape: weight, error }) {
  const key = `${layer} ${structure}`;
  if (!drawn.has(key)) {
    const element = made("article", "", "drawing");
    const told = `${structure}, error ${written(error, "number")}`;
    element.append(made("h3", layer), drawing(structure, weight), made("p", told));
    drawn.set(key, element);
  }
  return drawn.get(key);
}

function showDrawings(layers) {
  const cards = layers.filter((layer) => layer.structure).map(card);
  if (!cards.length) cards.push(made("p", "This plan leaves every layer dense.", "hint"));
  at("drawings").replaceChildren(...cards);
}

function onKey(event) {
  if (event.target.matches("input, textarea, select") || event.altKey || event.ctrlKey || event.metaKey) return;
  const steps = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: nPlans - 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  show(steps[event.key]);
}

frontTable.fill(data.front.rows, shown);
if (data.rivals) new SortableTable("rivals", data.rivals.columns).fill(data.rivals.rows);
at("slider").max = nPlans - 1;
at("slider").addEventListener("input", (event) => show(Number(event.target.value)));
at("previous").addEventListener("click", () => show(shown - 1));
at("next").addEventListener("click", () => show(shown + 1));
at("to-best").hidden = data.best === null;
at("to-best").addEventListener("click", () => show(data.best));
document.addEventListener("keydown", onKey);
document.querySelectorAll("[data-copy]").forEach((button) => {
  button.addEventListener("click", () => copy(at(button.dataset.copy).textContent, button));
});
show(shown);
drawCharts(show).then(() => {
  show(shown);
  document.documentElement.dataset.ready = "true";
});
