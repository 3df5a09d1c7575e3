"use strict";
(function () {
  const specs = JSON.parse(document.getElementById("plots").textContent);
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Specs name colours as CSS variables ("--ink"), only under keys that hold colours.
  function coloured(value, key) {
    if (typeof value === "string") return /color(scale)?$/.test(key) && value.startsWith("--") ? variable(value) : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, name)]));
  }
  function themed(layout) {
    const axis = { gridcolor: variable("--line"), linecolor: variable("--line"), fixedrange: true };
    const font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: variable("--ink") };
    const clear = "rgba(0,0,0,0)";
    return Object.assign({}, layout, {
      font, paper_bgcolor: clear, plot_bgcolor: clear, autosize: true,
      xaxis: Object.assign({}, axis, layout.xaxis), yaxis: Object.assign({}, axis, layout.yaxis),
    });
  }
  function draw() {
    for (const place of document.querySelectorAll("[data-plot]")) {
      const spec = specs[Number(place.dataset.plot)];
      Plotly.react(place, coloured(spec.data, ""), themed(spec.layout), { displayModeBar: false, responsive: true });
    }
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.matchMedia("print").addEventListener("change", draw);
})();
