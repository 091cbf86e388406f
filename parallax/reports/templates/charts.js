// Line charts and point charts as SVG that follows the page's colours. Each is a <figure> with a text for screen readers.
function ticks(low, high, count = 5) {
  if (!(high > low)) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; }
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// A plane with axes. x: {low, high, log, names}; y: {low, high, words}. Gives the <svg> and the two scales.
function plane({ width, height, x, y, label, xWords }) {
  const box = { left: 56, right: 14, top: 12, bottom: 46 };
  const scale = x.log ? Math.log : (value) => value;
  const low = scale(x.low), high = scale(x.high);
  const atX = (value) => box.left + (width - box.left - box.right) * (high > low ? (scale(value) - low) / (high - low) : 0.5);
  const atY = (value) => box.top + (height - box.top - box.bottom) * (1 - (y.high > y.low ? (value - y.low) / (y.high - y.low) : 0.5));
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of ticks(y.low, y.high)) {
    if (tick < y.low - 1e-12 || tick > y.high + 1e-12) continue;
    svg.append(s("line", { class: tick === 0 ? "zero" : "grid", x1: box.left, x2: width - box.right, y1: atY(tick), y2: atY(tick) }),
      s("text", { class: "tick", x: box.left - 7, y: atY(tick) + 4, "text-anchor": "end" }, (y.words || short)(tick)));
  }
  const marks = x.names ? x.names.map((name, i) => [i, name]) : (x.at || ticks(x.low, x.high, 6)).map((tick) => [tick, short(tick)]);
  let end = -Infinity;
  for (const [value, words] of marks) {
    if (value < x.low - 1e-12 || value > x.high + 1e-12) continue;
    const at = atX(value), half = Math.min(words.length, 18) * 3.8;
    if (at - half < end) continue;
    end = at + half + 4;
    svg.append(s("text", { class: "tick", x: at, y: height - box.bottom + 18, "text-anchor": "middle" }, words.length > 18 ? `${words.slice(0, 17)}…` : words));
  }
  svg.append(s("text", { class: "axis", x: (box.left + width - box.right) / 2, y: height - 8, "text-anchor": "middle" }, xWords));
  return { svg, atX, atY, box };
}
const padded = (low, high) => { const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.05; return [low - pad, high + pad]; };

// lines: [{label, colour, dash, x: [...], y: [...], run}]. Pointing at the chart says the nearest line's value below it.
function lineChart(lines, { label, xWords }) {
  const width = 1100, height = 400;
  const xs = lines.flatMap((line) => line.x), ys = lines.flatMap((line) => line.y.filter((v) => v !== null));
  if (!xs.length || !ys.length) return h("p", { class: "note" }, "No run shown here has this curve.");
  const most = (values, pick) => values.reduce((a, b) => pick(a, b));
  const [low, high] = padded(most(ys, Math.min), most(ys, Math.max));
  const told = lines.map((line) => `${line.label} ends at ${short(line.y[line.y.length - 1])}`).slice(0, 12).join("; ");
  const { svg, atX, atY } = plane({ width, height, xWords, label: `${label} over ${xWords}, ${lines.length} lines: ${told}`,
    x: { low: most(xs, Math.min), high: most(xs, Math.max) }, y: { low, high } });
  const drawn = lines.map((line) => {
    const points = line.x.map((x, i) => (line.y[i] === null ? "" : `${atX(x).toFixed(1)},${atY(line.y[i]).toFixed(1)}`)).filter(Boolean);
    const path = s("polyline", { class: "line", points: points.join(" "), "stroke-dasharray": line.dash || null, "data-run": line.run, style: { stroke: line.colour } });
    svg.append(path);
    return path;
  });
  const tip = h("p", { class: "tip", "aria-hidden": "true" });
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect(), x = ((event.clientX - place.left) / place.width) * width, y = ((event.clientY - place.top) / place.height) * height;
    let best = null;
    lines.forEach((line, number) => line.x.forEach((at, i) => {
      if (line.y[i] === null) return;
      const far = Math.hypot(atX(at) - x, atY(line.y[i]) - y);
      if (!best || far < best.far) best = { far, number, at, value: line.y[i] };
    }));
    if (!best) return;
    drawn.forEach((path, number) => path.classList.toggle("dim", number !== best.number));
    tip.textContent = `${lines[best.number].label}: ${short(best.value)} at ${xWords} ${short(best.at)}`;
  });
  svg.addEventListener("pointerleave", () => { drawn.forEach((path) => path.classList.remove("dim")); tip.textContent = ""; });
  return h("figure", { style: { margin: "0" } }, svg, tip);
}

// points: [{x, y, low, high, colour, series, label}]; x is a number, or a position among `names`.
function pointChart(points, { title, xWords, names, words }) {
  const width = 560, height = 320, numeric = !names;
  const xs = points.map((p) => p.x);
  let low = numeric ? Math.min(...xs) : -0.5, high = numeric ? Math.max(...xs) : names.length - 0.5;
  const log = numeric && low > 0 && high / low >= 20;
  if (numeric && low === high) { low -= 1; high += 1; }
  else if (numeric) { const pad = log ? (high / low) ** 0.05 : (high - low) * 0.05; [low, high] = log ? [low / pad, high * pad] : [low - pad, high + pad]; }
  const [bottom, top] = padded(Math.min(...points.map((p) => p.low ?? p.y)), Math.max(...points.map((p) => p.high ?? p.y)));
  const series = [...new Set(points.map((p) => p.series))];
  const means = series.map((name) => {
    const own = points.filter((p) => p.series === name), places = [...new Set(own.map((p) => p.x))].sort((a, b) => a - b);
    return { name, colour: own[0].colour, at: places.map((x) => { const there = own.filter((p) => p.x === x); return [x, there.reduce((sum, p) => sum + p.y, 0) / there.length]; }) };
  });
  const told = means.map((m) => `${m.name ? `${m.name}: ` : ""}${m.at.map(([x, y]) => `${names ? names[x] : short(x)} gives ${words(y)}`).join(", ")}`).join("; ");
  const { svg, atX, atY } = plane({ width, height, xWords, label: `${title} against ${xWords}. ${told}`,
    x: { low, high, log, names, at: numeric ? [...new Set(xs)].sort((a, b) => a - b) : null }, y: { low: bottom, high: top, words } });
  const shift = (p) => (series.length > 1 ? (series.indexOf(p.series) - (series.length - 1) / 2) * 5 : 0);
  for (const m of means) {
    if (m.at.length > 1) svg.append(s("polyline", { class: "line", style: { stroke: m.colour },
      points: m.at.map(([x, y]) => `${(atX(x) + shift({ series: m.name })).toFixed(1)},${atY(y).toFixed(1)}`).join(" ") }));
  }
  for (const p of points) {
    const x = atX(p.x) + shift(p);
    if (p.low !== null && p.low !== undefined) svg.append(s("line", { class: "whisker", x1: x, x2: x, y1: atY(p.low), y2: atY(p.high), style: { stroke: p.colour } }));
    svg.append(s("circle", { cx: x, cy: atY(p.y), r: 4.5, "data-run": p.run, style: { fill: p.colour } }, s("title", {}, `${p.label}: ${words(p.y)}`)));
  }
  const legend = series.length > 1 ? h("ul", { class: "keys" }, means.map((m) => h("li", { class: "key-line" }, h("i", { style: { "--run": m.colour } }), m.name))) : "";
  return h("figure", {}, h("figcaption", {}, `${title} against ${xWords}`), svg, legend);
}
