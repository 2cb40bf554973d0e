// Draws the figures that the page carries as data, in the colours of the style sheet; without this script their
// tables stand in for them.
"use strict";
(function () {
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => style().getPropertyValue(name).trim();

  function palette() {
    return [1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => colour("--c" + n));
  }

  function themed(figure) {
    const colours = palette();
    const data = figure.data.map((trace, at) => {
      const one = Object.assign({}, trace);
      const own = colours[at % colours.length];
      if (one.meta === "band") {
        one.line = { width: 0, color: colours[0] };
        one.fillcolor = colour("--band");
      } else if (one.type === "waterfall") {
        one.increasing = { marker: { color: colour(one.meta === "saving" ? "--good" : "--bad") } };
        one.decreasing = { marker: { color: colour(one.meta === "saving" ? "--bad" : "--good") } };
        one.totals = { marker: { color: colours[0] } };
        one.connector = { line: { color: colour("--line"), width: 1 } };
      } else if (one.type === "scatter") {
        one.line = Object.assign({ width: 2.5, color: one.meta === "series" ? own : colours[0] }, one.line);
        if (one.meta === "series") one.marker = { color: own };
      } else {
        one.marker = { color: own };
        if (one.error_x) one.error_x = Object.assign({ color: colour("--text"), thickness: 1.5 }, one.error_x);
      }
      return one;
    });
    const axis = {
      gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      fixedrange: true, automargin: true,
    };
    const layout = Object.assign({}, figure.layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style().fontFamily, size: 13, color: colour("--text-2") },
      margin: { l: 8, r: 8, t: 8, b: 8 }, dragmode: false, bargap: 0.25,
      // Under the axis whatever its labels need; inside the plot it would lie on them where they stand upright.
      legend: { orientation: "h", x: 0, xref: "container", y: 0, yref: "container", yanchor: "bottom" },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
      xaxis: Object.assign({}, axis, figure.layout.xaxis),
      yaxis: Object.assign({}, axis, figure.layout.yaxis),
    });
    return { data: data, layout: layout };
  }

  function draw(place) {
    const source = document.getElementById(place.dataset.figure);
    if (!source || !window.Plotly) return;
    const figure = themed(JSON.parse(source.textContent));
    place.classList.add("drawn");
    window.Plotly.react(place, figure.data, figure.layout, { displayModeBar: false, responsive: true });
    const twin = source.nextElementSibling;
    if (twin && twin.matches("details.twin") && !twin.dataset.seen) {
      twin.open = false;
      twin.dataset.seen = "1";
    }
  }

  function drawAll() {
    document.querySelectorAll("[data-figure]").forEach(draw);
    document.documentElement.dataset.drawn = "1";
  }

  window.farthingDraw = drawAll;
  drawAll();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
