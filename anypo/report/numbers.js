"use strict";
// What the other scripts build on: the data of the page, elements, numbers as text, axes.

const DATA = JSON.parse(document.getElementById("data").textContent);
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name === "tone") node.style.setProperty("--tone", value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// -- numbers ------------------------------------------------------------------------------------------------------------

function number(value, unit = "") {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return percent(value, Math.abs(value) < 0.1 && value !== 0 ? 1 : 0);
  if (unit === "seconds")
    return value < 0.1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(value >= 10 ? 1 : 2)} s`;
  return unit ? `${plain(value)} ${unit}` : plain(value);
}

function percent(value, places) {
  return `${(100 * value).toFixed(places)} %`;
}

function plain(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return power(value, 1);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3).replace("-", "−");
}

function power(value, places) {
  return value.toExponential(places).replace("+", "").replaceAll("-", "−");
}

function places(step) {
  let found = 0;
  while (found < 8 && Math.abs(step * 10 ** found - Math.round(step * 10 ** found)) > 1e-6) found++;
  return found;
}

function tickLabel(value, step, unit) {
  if (unit === "share") return percent(value, places(100 * step));
  if (value === 0) return "0";
  if (step < 1e-3 || Math.abs(value) >= 1e6)
    return power(
      value,
      Number.isInteger(+(value / 10 ** Math.floor(Math.log10(Math.abs(value)))).toPrecision(6)) ? 0 : 1,
    );
  const text =
    Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : value.toFixed(places(step)).replace("-", "−");
  return unit === "seconds" ? `${text} s` : text;
}

function niceStep(span, most) {
  const rough = span / most,
    power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * 0.999);
}

function axis(low, high, most) {
  if (!(high > low)) {
    const pad = Math.abs(low) * 0.1 || 0.5;
    high += pad;
    if (low !== 0) low -= pad;
  }
  const step = niceStep(high - low, most);
  const ticks = [];
  for (let i = Math.floor(low / step + 1e-6); i <= Math.ceil(high / step - 1e-6); i++)
    ticks.push(+(i * step).toPrecision(12));
  return { low: ticks[0], high: ticks[ticks.length - 1], ticks, step };
}

function stepTicks(first, last, width) {
  const most = Math.max(2, Math.floor(width / 70)),
    step = Math.max(1, Math.round(niceStep(Math.max(1, last - first), most)));
  const ticks = [];
  for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) ticks.push(tick);
  return ticks;
}

function smooth(values) {
  const half = Math.max(2, Math.round(values.length / 40));
  return values.map((own, i) => {
    if (own === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
}
