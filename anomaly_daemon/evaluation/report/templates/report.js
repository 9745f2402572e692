"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const sourceOf = (view, name) => view.model.document.get_model_by_name(name);

  // Numbers come as base64 of little-endian float32; NaN where there is none.
  const numbers = (text) => new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);

  async function draw(item, place) {
    const target = document.createElement("div");
    place.replaceChildren(target);
    const views = await Bokeh.embed.embed_item(item, target);
    return [...views][0] ?? views;
  }

  // A plot is painted in the colours and the width of the moment: again when they change. For paper it is laid out at once at
  // the paper's width and put beside itself as a picture: the browser's own resizing for paper would come too late to be painted.
  const plots = () => [...Bokeh.index].filter((view) => view.request_paint);
  function fit(onPaper) {
    document.documentElement.classList.toggle("on-paper", onPaper);
    document.querySelectorAll(".paper").forEach((picture) => picture.remove());
    for (const view of plots()) {
      view.after_resize();
      view.repaint();
      if (onPaper) {
        const picture = view.export("png").canvas;
        picture.removeAttribute("style");
        picture.className = "paper";
        view.el.closest(".plot").append(picture);
      }
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots().forEach((view) => view.request_paint()));
  addEventListener("beforeprint", () => fit(true));
  addEventListener("afterprint", () => fit(false));

  function showSeries(view, place) {
    const { start_ms: start, width_ms: width } = content.series;
    const series = content.series.each[place];
    const [low, high, limitLow, limitHigh, anomalous] = series.numbers.map(numbers);
    const line = { x: [], y: [] }, limits = { x: [], low: [], high: [] }, anomalies = { x: [], y: [] };
    let last = null, isUp = true;
    for (let at = 0; at < low.length; at += 1) {
      if (Number.isNaN(low[at])) continue;
      const x = start + (at + 0.5) * width;
      if (last !== null && at - last > series.gap) {
        line.x.push(x); line.y.push(NaN); limits.x.push(x); limits.low.push(NaN); limits.high.push(NaN);
      }
      line.x.push(x, x);
      line.y.push(...(isUp ? [low[at], high[at]] : [high[at], low[at]]));
      isUp = !isUp;
      last = at;
      if (!Number.isNaN(limitLow[at])) { limits.x.push(x); limits.low.push(limitLow[at]); limits.high.push(limitHigh[at]); }
      if (!Number.isNaN(anomalous[at])) { anomalies.x.push(x); anomalies.y.push(anomalous[at]); }
    }
    sourceOf(view, "scores").data = line;
    sourceOf(view, "thresholds").data = limits;
    sourceOf(view, "anomalies").data = anomalies;
  }

  async function drawWindows(details) {
    const incident = content.windows[Number(details.dataset.rank) - 1];
    for (const [place, panel] of incident.panels.entries()) {
      const view = await draw(content.window, details.querySelectorAll(".panels .plot")[place]);
      const x = incident.steps_back.map((steps) => -steps);
      sourceOf(view, "window").data = { x, actual: panel.actual.map((one) => one ?? NaN), reconstructed: panel.reconstructed.map((one) => one ?? NaN) };
      const [lower, upper, expected] = panel.band.map((one) => one ?? NaN);
      sourceOf(view, "band").data = { x: [0], lower: [lower], upper: [upper], expected: [expected] };
    }
    details.dataset.drawn = "yes";
  }

  function openIncident(rank) {
    const details = document.getElementById(`incident-${rank}`);
    if (details) {
      details.open = true;
      details.scrollIntoView({ block: "start" });
      return;
    }
    document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    const row = document.getElementById(`row-${rank}`);
    row?.classList.add("chosen");
    row?.scrollIntoView({ block: "center" });
  }

  function sortBy(button) {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const isDown = head.getAttribute("aria-sort") !== "descending";
    head.parentElement.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent.trim();
    const isNumeric = head.classList.contains("number");
    const compare = isNumeric ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    body.append(...[...body.rows].sort((a, b) => (isDown ? -1 : 1) * compare(a, b)));
  }

  document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-rank]");
    if (link) { event.preventDefault(); history.replaceState(null, "", link.hash); openIncident(Number(link.dataset.rank)); }
  });

  async function drawAll() {
    for (const [name, item] of Object.entries(content.plots)) {
      const place = document.getElementById(`plot-${name}`);
      const view = await draw(item, place);
      if (name === "scores") {
        const choice = document.getElementById("series");
        choice.addEventListener("change", () => showSeries(view, Number(choice.value)));
        showSeries(view, Number(choice.value));
      }
      if (name === "timeline") {
        for (const severity of ["critical", "high", "medium", "low"]) {
          const source = sourceOf(view, `timeline ${severity}`);
          source?.selected.properties.indices.change.connect(() => {
            const [chosen] = source.selected.indices;
            if (chosen !== undefined) openIncident(source.data.rank[chosen]);
          });
        }
      }
      place.dataset.drawn = "yes";
      performance.mark(`drawn ${name}`);
    }
    for (const details of document.querySelectorAll("details.incident")) {
      const isWanted = () => details.open && !details.dataset.drawn;
      details.addEventListener("toggle", () => { if (isWanted()) { details.dataset.drawn = "begun"; drawWindows(details); } });
      if (isWanted()) { details.dataset.drawn = "begun"; await drawWindows(details); }
    }
    document.documentElement.dataset.drawn = "yes";
    if (location.hash.startsWith("#incident-")) openIncident(Number(location.hash.slice("#incident-".length)));
  }
  drawAll();
})();
