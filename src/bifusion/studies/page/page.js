(function () {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set();
  const drawn = [];

  // Colours of axes and text follow the page, which follows the system's light or dark setting.
  function themed(layout) {
    const css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue("--soft").trim();
    const grid = css.getPropertyValue("--grid").trim();
    const card = css.getPropertyValue("--card").trim();
    const axis = function (given) { return Object.assign({}, given, { gridcolor: grid, linecolor: grid }); };
    return Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: "zoom", autosize: true,
      font: { color: ink, size: 11, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: card, bordercolor: grid, font: { size: 12 }, namelength: -1 },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis)
    });
  }
  function visible(trace) { return !hidden.has(trace.meta); }
  function draw(element) {
    if (drawn.includes(element)) { return; }
    drawn.push(element);
    const chart = charts[Number(element.dataset.chart)];
    const traces = chart.data.map(function (t) { return Object.assign({}, t, { visible: visible(t) }); });
    Plotly.newPlot(element, traces, themed(chart.layout), { displayModeBar: false, responsive: true });
  }
  // Charts in sight are drawn first, the others one by one, so that the page answers at once.
  const watcher = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
    });
  }, { rootMargin: "600px" });
  const plots = Array.from(document.querySelectorAll(".plot"));
  plots.forEach(function (element) { watcher.observe(element); });
  function drawNext() {
    const next = plots.find(function (element) { return !drawn.includes(element); });
    if (next) { watcher.unobserve(next); draw(next); setTimeout(drawNext, 30); }
  }
  setTimeout(drawNext, 200);

  document.querySelectorAll(".chip").forEach(function (chip) {
    chip.addEventListener("click", function () {
      const arm = chip.dataset.arm;
      if (hidden.has(arm)) { hidden.delete(arm); } else { hidden.add(arm); }
      chip.setAttribute("aria-pressed", String(!hidden.has(arm)));
      drawn.forEach(function (element) {
        const chart = charts[Number(element.dataset.chart)];
        Plotly.restyle(element, { visible: chart.data.map(visible) });
      });
    });
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    drawn.forEach(function (element) {
      Plotly.relayout(element, themed(charts[Number(element.dataset.chart)].layout));
    });
  });
})();
