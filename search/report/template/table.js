"use strict";

/** A table that can be sorted by every column and copied; a click on a row may pick it. */
class SortableTable {
  constructor(id, columns, pick = null) {
    this.table = at(id);
    this.columns = columns;
    this.pick = pick;
    this.rows = [];
    this.key = null;
    this.falling = false;
    this.made = new WeakMap();  // values of a row -> its line, for the plans that share it
    const head = made("tr");
    this.heads = columns.map((column, index) => {
      const cell = made("th", "", column.kind === "text" ? "text" : "");
      const button = made("button", column.title);
      button.type = "button";
      button.title = column.meaning;
      button.addEventListener("click", () => this.sortBy(index));
      cell.scope = "col";
      cell.append(button);
      head.append(cell);
      return cell;
    });
    this.table.tHead.append(head);
    const tools = made("div", "", "tools");
    const button = made("button", "copy table");
    button.type = "button";
    button.addEventListener("click", () => copy(this.text(), button));
    tools.append(button);
    this.table.closest(".scroll").after(tools);
  }

  /** Show rows, in the order that is chosen; `mark` says which of them is picked. */
  fill(rows, mark = null) {
    this.rows = rows;
    const order = this.order();
    const body = document.createElement("tbody");
    this.lines = new Map(order.map((index) => [index, this.line(index)]));
    if (this.pick) {
      for (const [index, line] of this.lines) line.setAttribute("aria-selected", index === mark);
    }
    body.append(...this.lines.values());
    this.table.tBodies[0].replaceWith(body);
  }

  /** Mark one row, and bring it into view. */
  mark(index) {
    for (const [row, line] of this.lines) line.setAttribute("aria-selected", row === index);
    const line = this.lines.get(index);
    const box = this.table.closest(".scroll");
    const top = line.offsetTop - this.table.tHead.offsetHeight;
    if (top < box.scrollTop) box.scrollTop = top;
    const below = line.offsetTop + line.offsetHeight - box.clientHeight;
    if (below > box.scrollTop) box.scrollTop = below;
  }

  line(index) {
    const values = this.rows[index];
    if (this.made.has(values)) return this.made.get(values);
    const line = document.createElement("tr");
    this.made.set(values, line);
    values.forEach((value, place) => {
      const { kind, name } = this.columns[place];
      const text = written(value, kind);
      const cell = made("td", text, kind === "text" ? "text" : "");
      cell.dataset.column = name;
      if (value !== null) cell.dataset.value = value;
      if (text.length > 40) { cell.classList.add("long"); cell.title = text; }
      line.append(cell);
    });
    if (this.pick) line.addEventListener("click", () => this.pick(index));
    const structure = this.columns.findIndex((column) => column.name === "structure");
    if (structure >= 0 && !values[structure]) line.className = "dense";
    return line;
  }

  order() {
    const order = this.rows.map((_, index) => index);
    if (this.key === null) return order;
    const sign = this.falling ? -1 : 1;
    return order.sort((one, other) => {
      const [a, b] = [this.rows[one][this.key], this.rows[other][this.key]];
      if (a === null || b === null) return (a === null) - (b === null);
      if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
      return sign * (a - b);
    });
  }

  sortBy(key) {
    this.falling = this.key === key && !this.falling;
    this.key = key;
    this.heads.forEach((head, index) => {
      if (index === key) head.setAttribute("aria-sort", this.falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const marked = [...this.lines].find(([, line]) => line.getAttribute("aria-selected") === "true");
    this.fill(this.rows, marked ? marked[0] : null);
  }

  /** Return the table as tab-separated values, in full precision. */
  text() {
    const lines = this.order().map((index) => this.rows[index].map((value) => value ?? "").join("\t"));
    return [this.columns.map((column) => column.name).join("\t"), ...lines].join("\n") + "\n";
  }
}
