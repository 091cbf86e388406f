// gallery.html: a list of which only the rows in view are in the page, filters, and one item in full.
(() => {
  const ROW = 116, AROUND = 4, TALLEST = 8e6; // pixels of a row; rows kept beyond the view; browsers draw nothing taller
  const { files } = JSON.parse(byId("data").textContent);
  const list = byId("list"), tall = byId("tall");
  let sets = [], chunk = 1, set = null, order = [], chosen = -1;
  const rows = new Map(); // position in `order` -> element
  const loaded = new Map(), waiting = new Map(); // "set:number" -> items, or what waits for them

  // ---- data files, each a script that calls one of these two
  globalThis.parallaxIndex = (index) => { sets = index.sets; chunk = index.chunk; start(); };
  globalThis.parallaxChunk = (name, number, items) => {
    const key = `${name}:${number}`;
    loaded.set(key, items);
    (waiting.get(key) || []).forEach((done) => done());
    waiting.delete(key);
  };
  function script(name) {
    const node = h("script", { src: `${files}/${name}` });
    node.addEventListener("error", () => { byId("lost").hidden = false; });
    document.head.append(node);
  }
  function load(number) { // resolves once the chunk is there
    const key = `${set.name}:${number}`;
    if (loaded.has(key)) return Promise.resolve();
    return new Promise((done) => {
      if (waiting.has(key)) { waiting.get(key).push(done); return; }
      waiting.set(key, [done]);
      script(`${set.name}-${String(number).padStart(4, "0")}.js`);
    });
  }
  const item = (index) => { const items = loaded.get(`${set.name}:${Math.floor(index / chunk)}`); return items ? items[index % chunk] : null; };
  const column = (name) => set.columns.find((one) => one.name === name);
  const fact = (name, index) => { const one = column(name); return !one ? null : one.words ? one.words[one.values[index]] : one.values[index]; };

  // ---- the list. Taller lists than browsers can draw are squeezed: a scrolled pixel then stands for more than one.
  const height = () => Math.min(order.length * ROW, TALLEST);
  const view = () => list.clientHeight || 600;
  const squeezed = () => order.length * ROW > TALLEST;
  function topRow() {
    if (!squeezed()) return list.scrollTop / ROW;
    return (list.scrollTop / Math.max(1, height() - view())) * (order.length - view() / ROW);
  }
  function scrollToRow(top) {
    list.scrollTop = squeezed() ? (top / (order.length - view() / ROW)) * (height() - view()) : top * ROW;
  }
  function draw() {
    tall.style.height = `${height()}px`;
    const top = topRow(), first = Math.max(0, Math.floor(top) - AROUND), last = Math.min(order.length, Math.ceil(top + view() / ROW) + AROUND);
    for (const [at, row] of rows) if (at < first || at >= last) { row.remove(); rows.delete(at); }
    for (let at = first; at < last; at += 1) {
      if (!rows.has(at)) { const row = rowAt(at); rows.set(at, row); tall.append(row); }
      rows.get(at).style.top = `${squeezed() ? list.scrollTop + (at - top) * ROW : at * ROW}px`;
    }
    list.setAttribute("aria-activedescendant", rows.has(chosen) ? `row-${chosen}` : "");
  }
  function redraw() { rows.forEach((row) => row.remove()); rows.clear(); draw(); }
  function rowAt(at) {
    const index = order[at], one = item(index);
    const row = h("div", { class: "row", role: "option", id: `row-${at}`, "aria-posinset": at + 1, "aria-setsize": order.length, "aria-selected": String(at === chosen), onclick: () => choose(at) });
    if (one) row.append(...inside(one, index));
    else {
      row.append(h("div", { class: "shots" }, h("span", { class: "blank" })), h("p", { class: "note" }, "…"));
      const [now, before] = [set, order];
      load(Math.floor(index / chunk)).then(() => { if (set === now && order === before && rows.get(at) === row) row.replaceChildren(...inside(item(index), index)); });
    }
    return row;
  }
  const picture = (name, alt) => (name ? h("img", { src: `${files}/images/${name}`, alt, loading: "lazy", decoding: "async" }) : h("span", { class: "blank", title: "no picture" }));
  function inside(one, index) {
    const shots = h("div", { class: "shots" }, picture(one.image, "the clean image"), one.corrupted.length ? picture(one.corrupted[0], "the image as the rejected answer saw it") : "");
    const outcome = fact("outcome", index) || fact("change", index) || "";
    const tag = outcome && outcome !== "kept" ? h("span", { class: `tag ${outcome.startsWith("dropped") ? "dropped" : outcome}` }, outcome) : "";
    const said = (kind, parts, words) => (parts ? h("p", { class: `said ${kind}` }, h("span", { class: "visually-hidden" }, `${words}: `), spans(parts)) : "");
    const two = set.name === "answers"
      ? [said("", one.before && one.before.spans, "before"), said("", one.after && one.after.spans, "after")]
      : [said("chosen", one.chosen, "chosen"), said("rejected", one.rejected.length ? one.rejected[0].spans : null, "rejected")];
    return [shots, h("div", {}, h("p", { class: "prompt" }, tag, one.prompt), two)];
  }

  // ---- one item in full
  function choose(at, quiet) {
    if (!order.length) { chosen = -1; byId("detail").replaceChildren(h("p", { class: "note" }, "Nothing fits these filters.")); return; }
    const old = rows.get(chosen);
    if (old) old.setAttribute("aria-selected", "false");
    chosen = Math.max(0, Math.min(order.length - 1, at));
    if (!quiet) {
      const top = topRow(), room = view() / ROW;
      if (chosen < top) scrollToRow(chosen);
      else if (chosen + 1 > top + room) scrollToRow(chosen + 1 - room);
    }
    draw();
    if (rows.has(chosen)) rows.get(chosen).setAttribute("aria-selected", "true");
    const [now, before, index, here] = [set, order, order[chosen], chosen];
    load(Math.floor(index / chunk)).then(() => { if (set === now && order === before && chosen === here) detail(item(index), index); });
  }
  function detail(one, index) {
    const figure = (name, words, alt) => (name ? h("figure", {}, picture(name, alt), h("figcaption", {}, words)) : "");
    const seen = one.rejected ? one.rejected.map((each) => each.view).filter(Boolean) : [];
    const images = h("div", { class: "images" }, figure(one.image, one.image_name || "clean", "the clean image"), one.corrupted.map((name, i) => figure(name, seen[i] || "corrupted", "the image as a rejected answer saw it")), one.image ? "" : h("p", { class: "missing" }, "no picture"));
    const score = (value) => (value === null || value === undefined ? "" : h("span", { class: "score" }, typeof value === "number" ? `score ${short(value)}` : value));
    const notes = (lines) => (lines || []).map(([mark, text]) => h("span", { class: "noted" }, `${mark} ${text}`));
    const answer = (kind, words, each) => (each ? h("p", { class: `answer ${kind}` }, h("b", {}, words, score(each.score), each.view ? h("span", { class: "score" }, each.view) : ""), spans(each.spans), each.asked ? h("span", { class: "origin" }, ` asked: ${each.asked}`) : "", each.start ? h("span", { class: "origin" }, ` begun with: ${each.start}`) : "", notes(each.notes)) : "");
    const gone = one.dropped ? h("p", { class: "warnings" }, `No pair: ${one.dropped}${one.detail ? ` (${one.detail})` : ""}.`) : "";
    const said = set.name === "answers"
      ? [answer("", "before", one.before), answer("", "after", one.after), h("p", { class: "answer truth" }, h("b", {}, "truth"), one.truth)]
      : [gone, one.chosen ? answer("chosen", one.dropped ? "would-be chosen" : "chosen", { spans: one.chosen, score: one.score, asked: one.asked, notes: one.notes }) : "", one.rejected.map((each) => answer("rejected", one.dropped ? "would-be rejected" : "rejected", each)), one.more > 0 ? h("p", { class: "note" }, `and ${one.more} more rejected answers`) : "", notes(one.judged)];
    const facts = [["sample", one.id], ...set.columns.map((column) => [column.title, column.words ? column.words[column.values[index]] : short(column.values[index])])].filter(([, words]) => words !== "" && words !== "–");
    byId("detail").replaceChildren(images, h("h2", {}, one.prompt || "(no question)"), ...said.flat().filter(Boolean), h("dl", {}, facts.map(([name, words]) => [h("dt", {}, name), h("dd", {}, words)])));
    byId("detail").scrollTop = 0;
  }

  // ---- filters and order
  let round = 0; // a newer search stops an older one
  function wanted() {
    return set.columns.map((one) => {
      if (one.words) { const pick = byId(`fact-${one.name}`).value; return pick === "" ? null : (index) => one.values[index] === Number(pick); }
      const [low, high] = ["low", "high"].map((end) => byId(`${end}-${one.name}`).value).map((text) => (text === "" ? null : Number(text)));
      if (low === null && high === null) return null;
      return (index) => { const value = one.values[index]; return value !== null && (low === null || value >= low) && (high === null || value <= high); };
    }).filter(Boolean);
  }
  async function filter() {
    const mine = (round += 1), now = set, query = byId("search").value.trim(), tests = wanted();
    let found = [];
    for (let index = 0; index < set.count; index += 1) if (tests.every((test) => test(index))) found.push(index);
    if (query) {
      const fits = matcher(query), chunks = [...new Set(found.map((index) => Math.floor(index / chunk)))];
      for (let at = 0; at < chunks.length; at += 8) {
        const lot = chunks.slice(at, at + 8);
        if (lot.some((number) => !loaded.has(`${set.name}:${number}`))) {
          byId("status").textContent = `Reading ${Math.round((100 * at) / chunks.length)} % …`;
          await Promise.all(lot.map(load));
          if (mine !== round || set !== now) return;
        }
      }
      found = found.filter((index) => fits(textOf(item(index))));
    }
    const [name, way] = byId("order").value.split(" "), by = name ? column(name).values : null, sign = way === "down" ? -1 : 1;
    if (by) found.sort((a, b) => (by[a] === null) - (by[b] === null) || sign * (by[a] - by[b]) || a - b);
    order = found;
    chosen = -1;
    list.scrollTop = 0;
    redraw();
    choose(0, true);
    byId("status").textContent = `${order.length.toLocaleString("en")} of ${set.count.toLocaleString("en")} shown.`;
  }
  function textOf(one) {
    if (!one.words) {
      const joined = (parts) => (parts ? parts.map(([text]) => text).join("") : "");
      const said = set.name === "answers" ? [one.before, one.after].map((each) => joined(each && each.spans)) : [joined(one.chosen), ...one.rejected.map((each) => joined(each.spans))];
      one.words = [one.id, one.prompt, one.truth || "", ...said].join(" ").toLowerCase();
    }
    return one.words;
  }
  function show(name) {
    set = sets.find((one) => one.name === name);
    document.querySelectorAll("#sets button").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.set === name)));
    byId("facts").replaceChildren(...set.columns.map((one) => {
      if (one.words) {
        const counts = new Array(one.words.length).fill(0);
        one.values.forEach((value) => { counts[value] += 1; });
        const select = h("select", { id: `fact-${one.name}` });
        const choices = one.words.map((words, i) => [String(i), `${words || "–"} (${counts[i].toLocaleString("en")})`]).sort((a, b) => counts[b[0]] - counts[a[0]]);
        options(select, [["", "all"], ...choices], "");
        select.disabled = false;
        return h("label", {}, one.title, select);
      }
      const number = (end, words) => h("input", { type: "number", step: "any", id: `${end}-${one.name}`, placeholder: words, "aria-label": `${one.title}, ${end === "low" ? "at least" : "at most"}` });
      return h("label", {}, one.title, number("low", "from"), number("high", "to"));
    }));
    const sortable = set.columns.filter((one) => !one.words).flatMap((one) => [[`${one.name} down`, `${one.title}, most first`], [`${one.name} up`, `${one.title}, least first`]]);
    options(byId("order"), [["", "as built"], ...sortable], "");
    list.setAttribute("aria-label", set.title);
    filter();
  }
  function start() {
    byId("sets").replaceChildren(...sets.map((one) => h("button", { type: "button", "data-set": one.name, onclick: () => { byId("search").value = ""; show(one.name); } }, `${one.title} (${one.count.toLocaleString("en")})`)));
    show(sets[0].name);
  }

  // ---- keys and wiring
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(view() / ROW) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (step) choose(chosen + step);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(order.length - 1);
    else if (event.key === "Enter") byId("detail").focus();
    else return;
    event.preventDefault();
  });
  byId("detail").addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) { byId("search").focus(); event.preventDefault(); }
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(() => { if (set) draw(); }).observe(list);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", later(filter, 150));
  byId("filters").addEventListener("reset", () => setTimeout(filter, 0));
  script("index.js");
})();
