"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

/** Return the element of an id. */
function at(id) {
  return document.getElementById(id);
}

/** Return a new element with text, which stays text whatever it looks like. */
function made(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

/** Return a value of a column as people read it. */
function written(value, kind) {
  if (value === null || value === undefined) return "–";
  if (kind === "text") return value;
  if (kind === "count") return value.toLocaleString("en-US");
  if (kind === "share") return `${(100 * value).toFixed(2)} %`;
  return String(Number(value.toPrecision(4)));
}

/** Return text as plotly shows it letter by letter. */
function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** Copy text, and say so on the button that asked for it. */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page from disk may not be allowed to
    const area = made("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}
