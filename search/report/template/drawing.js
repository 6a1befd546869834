"use strict";

const UNIT = { x: 100, y: 62 };  // pixels between two factors
const BOX = { width: 80, height: 30 };

/** Read "groups*family:shape,shape@rank,rank". */
function parsed(structure) {
  const [head, rest] = structure.split(":");
  const [shapes, ranks] = rest.split("@");
  const [family, groups] = head.split("*").reverse();
  return {
    family,
    groups: Number(groups ?? 1),
    shapes: shapes.split(",").map((shape) => shape.split("x").map(Number)),
    ranks: ranks ? ranks.split(",").map(Number) : [],
  };
}

/** Return the tensor network of a structure beside the weight that it stands for, as SVG. */
function drawing(structure, weight) {
  const { family, groups, shapes, ranks } = parsed(structure);
  const { nodes, edges, labels, hubs } = data.drawings[`${family}/${shapes.length}`];
  const dense = [-1.5, 0];
  const all = [dense, ...nodes, ...labels];
  const [left, right] = [-2, Math.max(...all.map((place) => place[0])) + 0.5];
  const rows = all.map((place) => place[1]);
  const [top, bottom] = [Math.min(...rows) - 0.4, Math.max(...rows) + 0.4];
  const svg = svgElement("svg", {
    viewBox: `0 0 ${(right - left) * UNIT.x} ${(bottom - top) * UNIT.y}`,
    role: "img",
    "aria-label": structure,
  });
  const place = ([column, row]) => [(column - left) * UNIT.x, (row - top) * UNIT.y];
  for (const { start, control, end } of edges) {
    const [a, b, c] = [start, control, end].map((point) => place(point).join(" "));
    svg.append(svgElement("path", { d: `M ${a} Q ${b} ${c}` }));
  }
  box(svg, place(dense), weight, "whole");
  write(svg, place([-0.75, 0]), groups > 1 ? `≈ ${groups} ×` : "≈", "about");
  nodes.forEach((node, index) => box(svg, place(node), shapes[index].join("×"), "factor"));
  labels.forEach((label, bond) => {
    const [x, y] = place(label);
    if (hubs.includes(bond)) svg.append(svgElement("circle", { cx: x, cy: y, r: 14 }));
    write(svg, [x, y], String(ranks[bond]), "rank");
  });
  return svg;
}

function box(svg, [x, y], text, className) {
  const { width, height } = BOX;
  svg.append(svgElement("rect", {
    x: x - width / 2, y: y - height / 2, width, height, rx: 6, class: className,
  }));
  write(svg, [x, y], text, className);
}

function write(svg, [x, y], text, className) {
  const element = svgElement("text", { x, y, class: className });
  element.textContent = text;
  svg.append(element);
}

function svgElement(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
