// compare.html: sorting and filtering of the table, and what is drawn from the runs that are left.
(() => {
  const { runs, settings, metrics, curves, answers, images } = JSON.parse(byId("data").textContent);
  const body = byId("runs").tBodies[0], rows = [...body.rows];
  const setting = (key) => settings.find((one) => one.key === key);
  const words = (run, key) => runs[run].words[key];

  // ---- which runs are shown, and their colours
  const text = runs.map((run) => [run.name, run.label, ...settings.map((one) => `${one.key}=${run.words[one.key]}`)].join(" ").toLowerCase());
  const shown = () => rows.filter((row) => !row.hidden && row.querySelector("input").checked).map((row) => Number(row.dataset.run)).sort((a, b) => a - b);
  let colours = [];
  function paint() {
    const key = byId("colour").value, by = setting(key);
    colours = runs.map((run, number) => {
      if (!by) return { colour: `var(--c${(number % 8) + 1})`, dash: ["", "7 4", "2 4"][Math.floor(number / 8) % 3] };
      const level = by.levels.indexOf(run.settings[key]), last = by.levels.length - 1;
      if (by.numeric && last > 2) return { colour: `color-mix(in oklab, var(--c2) ${Math.round((100 * level) / last)}%, var(--c1))`, dash: "" };
      return { colour: `var(--c${(level % 8) + 1})`, dash: "" };
    });
    rows.forEach((row) => row.style.setProperty("--run", colours[row.dataset.run].colour));
  }

  // ---- the table
  function valueOf(run, key) {
    const [kind, name] = [key.split(":", 1)[0], key.slice(key.indexOf(":") + 1)];
    if (kind === "setting") return runs[run].settings[name];
    if (kind === "metric") return runs[run].metrics[name] ? runs[run].metrics[name].value : null;
    return runs[run][kind];
  }
  function sortBy(head) {
    const key = head.dataset.sort, up = head.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
    document.querySelectorAll("#runs thead th[data-sort]").forEach((other) => {
      other.setAttribute("aria-sort", other === head ? (up ? "ascending" : "descending") : "none");
      other.querySelector(".way").textContent = other === head ? (up ? "▲" : "▼") : "";
    });
    const by = (a, b) => {
      const [one, two] = [valueOf(a.dataset.run, key), valueOf(b.dataset.run, key)];
      if (one === null || one === undefined || two === null || two === undefined) return (one === null || one === undefined) - (two === null || two === undefined);
      const order = typeof one === "number" && typeof two === "number" ? one - two : String(one).localeCompare(String(two), undefined, { numeric: true });
      return sign * order || a.dataset.run - b.dataset.run;
    };
    body.append(...rows.sort(by));
  }
  function filterRows() {
    const fits = matcher(byId("filter").value);
    rows.forEach((row) => { row.hidden = !fits(text[row.dataset.run]); });
    draw();
  }
  function draw() {
    const count = shown().length;
    byId("count").textContent = count === runs.length ? `${count} runs` : `${count} of ${runs.length} runs`;
    drawAgainst(); drawHeat(); drawCurves();
  }

  // ---- metric against setting
  const chosenMetric = (id) => metrics.find((one) => one.name === byId(id).value);
  function drawAgainst() {
    if (!byId("against")) return;
    const metric = chosenMetric("against-metric"), left = shown().filter((run) => runs[run].metrics[metric.name]);
    const figures = settings.map((one) => {
      const others = settings.filter((other) => other !== one);
      const by = others.length === 1 ? others[0] : null;
      const having = left.filter((run) => !one.numeric || runs[run].settings[one.key] !== null);
      if (!having.length) return null;
      const points = having.map((run) => {
        const value = runs[run].metrics[metric.name], level = by ? by.levels.indexOf(runs[run].settings[by.key]) : 0;
        return { run, label: runs[run].label, x: one.numeric ? runs[run].settings[one.key] : one.levels.indexOf(runs[run].settings[one.key]), y: value.value, low: value.low, high: value.high,
          series: by ? `${by.short}=${words(run, by.key)}` : "", order: level, colour: by ? `var(--c${(level % 8) + 1})` : "var(--c1)" };
      }).sort((a, b) => a.order - b.order);
      return pointChart(points, { title: metric.short, xWords: one.short, words: percent, names: one.numeric ? null : one.levels.map((level) => (level === null ? "–" : String(level))) });
    });
    byId("against").replaceChildren(...figures.filter(Boolean));
  }

  // ---- heat map of two settings: means of the runs in each cell
  function drawHeat() {
    if (!byId("heat")) return;
    const metric = chosenMetric("heat-metric"), down = setting(byId("heat-rows").value), across = setting(byId("heat-columns").value);
    const left = shown().filter((run) => runs[run].metrics[metric.name]);
    const name = (level) => (level === null ? "–" : typeof level === "number" ? short(level) : String(level));
    const cells = down.levels.map((row) => across.levels.map((column) => {
      const there = left.filter((run) => runs[run].settings[down.key] === row && runs[run].settings[across.key] === column);
      return there.length ? { mean: there.reduce((sum, run) => sum + runs[run].metrics[metric.name].value, 0) / there.length, count: there.length } : null;
    }));
    const means = cells.flat().filter(Boolean).map((cell) => cell.mean), low = Math.min(...means), high = Math.max(...means);
    const best = metric.direction < 0 ? low : metric.direction > 0 ? high : null;
    const body = down.levels.map((level, i) => h("tr", {}, h("th", { scope: "row" }, name(level)), cells[i].map((cell) => {
      if (!cell) return h("td", { class: "empty" }, "–");
      const share = high > low ? (cell.mean - low) / (high - low) : 0.5, strength = metric.direction < 0 ? 1 - share : share;
      return h("td", { class: `${cell.mean === best ? "best " : ""}${strength > 0.85 ? "hot" : ""}`.trim(), style: { "--heat": `${Math.round(6 + 94 * strength)}%` } },
        percent(cell.mean), cell.mean === best ? h("span", { class: "visually-hidden" }, " best") : "", cell.count > 1 ? h("span", { class: "interval" }, `mean of ${cell.count}`) : "");
    })));
    const head = h("thead", {}, h("tr", {}, h("th", {}, `${down.short} ↓ · ${across.short} →`), across.levels.map((level) => h("th", { scope: "col" }, name(level)))));
    byId("heat").replaceChildren(h("table", { class: "heat" }, h("caption", { class: "visually-hidden" }, `${metric.short} for each ${down.short} and ${across.short}; darker is better`), head, h("tbody", {}, body)));
  }

  // ---- curves
  function smoothed(values, weight) {
    let mean = null;
    return weight ? values.map((value) => (value === null ? null : (mean = mean === null ? value : weight * mean + (1 - weight) * value))) : values;
  }
  function drawCurves() {
    if (!byId("curves")) return;
    const curve = curves.find((one) => one.name === byId("curve").value), left = new Set(shown()), weight = Number(byId("smooth").value);
    const stages = new Set(curve.lines.map((line) => line.stage));
    const lines = curve.lines.filter((line) => left.has(line.run)).map((line) => ({ ...line, y: smoothed(line.y, weight), ...colours[line.run],
      label: `${runs[line.run].label}${stages.size > 1 ? `, ${line.stage}` : ""}` }));
    const keys = h("ul", { class: "keys" }, [...new Set(lines.map((line) => line.run))].slice(0, 40).map((run) => h("li", { class: "key-line" }, h("i", { style: { "--run": colours[run].colour } }), runs[run].label)));
    byId("curves").replaceChildren(lineChart(lines, { label: curve.name, xWords: "step" }), keys);
  }

  // ---- answers
  const STEP = 20;
  let most = STEP;
  const whole = answers.map((one) => [one.question, one.truth, ...one.groups.map((group) => group.spans.map(([part]) => part).join(""))].join(" ").toLowerCase());
  function drawAnswers() {
    if (!byId("answers")) return;
    const fits = matcher(byId("words").value), suite = byId("suite").value, only = byId("disagree").checked;
    const found = answers.filter((one, i) => (!suite || one.suite === suite) && (!only || one.disagree) && fits(whole[i]));
    byId("asked").textContent = `${found.length} of ${answers.length} questions`;
    byId("answers").replaceChildren(...found.slice(0, most).map(card));
    byId("more").hidden = found.length <= most;
  }
  function card(one) {
    const base = one.groups.find((group) => group.runs.includes(-1));
    const said = one.groups.map((group) => {
      const trend = base && group !== base && group.good !== base.good ? (group.good > base.good ? " good" : " bad") : "";
      const chips = group.runs.map((run) => h("li", { style: { "--run": run < 0 ? "var(--soft)" : colours[run].colour } }, run < 0 ? "before training" : runs[run].label));
      return h("div", { class: `answer${trend}` }, h("b", {}, group.score || "answer", trend ? h("span", { class: "score" }, trend === " good" ? "better than before" : "worse than before") : ""), spans(group.spans), h("ul", { class: "chips" }, chips));
    });
    const picture = one.image === null ? h("span") : h("img", { src: images[one.image], alt: "", loading: "lazy" });
    return h("article", { class: "card" }, picture, h("div", {}, h("p", { class: "prompt" }, one.question), said, h("p", { class: "answer truth" }, h("b", {}, "truth"), one.truth), h("p", { class: "origin" }, `${one.suite} · ${one.sample}`)));
  }

  // ---- wiring
  options(byId("colour"), [["", "run"], ...settings.map((one) => [one.key, one.short])], settings.length && settings.length < 4 ? settings[0].key : "");
  const some = metrics.filter((one) => one.headline), names = [...some, ...metrics.filter((one) => !one.headline)].map((one) => [one.name, one.short]);
  document.querySelectorAll(".pick-metric").forEach((select) => { options(select, names, names[0][0]); select.addEventListener("change", draw); });
  if (byId("heat")) {
    const keys = settings.map((one) => [one.key, one.short]);
    options(byId("heat-rows"), keys, keys[0][0]); options(byId("heat-columns"), keys, keys[1][0]);
    ["heat-rows", "heat-columns"].forEach((id) => byId(id).addEventListener("change", drawHeat));
  }
  if (byId("curves")) {
    options(byId("curve"), curves.map((one) => [one.name, one.name.replace(/^train\//, "")]), curves[0].name);
    byId("curve").addEventListener("change", drawCurves); byId("smooth").addEventListener("input", drawCurves);
  }
  if (byId("answers")) {
    const suites = [...new Set(answers.map((one) => one.suite))];
    options(byId("suite"), [["", "all"], ...suites.map((name) => [name, name])], "");
    const again = () => { most = STEP; drawAnswers(); };
    byId("suite").addEventListener("change", again); byId("disagree").addEventListener("change", again); byId("words").addEventListener("input", later(again, 120));
    byId("more").addEventListener("click", () => { most += STEP; drawAnswers(); });
  }
  document.querySelectorAll("#runs thead th[data-sort] button").forEach((button) => button.addEventListener("click", () => sortBy(button.parentElement)));
  byId("filter").addEventListener("input", later(filterRows, 80));
  byId("colour").addEventListener("change", () => { paint(); draw(); drawAnswers(); });
  body.addEventListener("change", draw);
  byId("tick-all").addEventListener("change", (event) => { rows.forEach((row) => { row.querySelector("input").checked = event.target.checked; }); draw(); });
  if (byId("all-metrics")) byId("all-metrics").addEventListener("change", (event) => document.querySelectorAll("#runs .more").forEach((cell) => { cell.hidden = !event.target.checked; }));
  body.addEventListener("pointerover", (event) => light(event.target.closest("tr")));
  body.addEventListener("pointerleave", () => light(null));
  function light(row) {
    document.querySelectorAll("#curves .line").forEach((line) => line.classList.toggle("dim", row !== null && line.dataset.run !== row.dataset.run));
  }
  paint(); draw(); drawAnswers();
})();
