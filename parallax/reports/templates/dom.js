"use strict";
// Small helpers of all pages. Text goes into the page as text nodes only; nothing here parses markup.
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") for (const [key, word] of Object.entries(value)) node.style.setProperty(key, word);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// [[text, differs], …] as text and <mark>
const spans = (parts) => parts.map(([text, differs]) => (differs ? h("mark", {}, text) : text));

function options(select, items, chosen) {
  select.replaceChildren(...items.map(([value, words]) => h("option", { value, selected: value === chosen }, words)));
  if (items.length < 2) select.disabled = true;
}

function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = value !== 0 && (size >= 1e6 || size < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}
const percent = (share) => `${(100 * share).toFixed(1).replace("-", "−")} %`;

// Words of a search: all must occur; those with a minus in front must not.
function matcher(query) {
  const words = query.toLowerCase().split(/\s+/).filter((word) => word && word !== "-");
  return (text) => words.every((word) => (word[0] === "-" && word.length > 1 ? !text.includes(word.slice(1)) : text.includes(word)));
}
function later(action, wait) {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => action(...given), wait); };
}
