// Charts of the evaluation report: draws the JSON in `data-chart` of each card with uPlot, in the place of its static
// picture. Written by ms2hs/evaluation/report/chart_data.py. Loads nothing.
"use strict";

(() => {
  const INK = "#1b1d1f", GRID = "#e2e2de", GREY = "#ededea";
  const shown = (value, digits) => value == null ? "–" : Number(value.toPrecision(digits)).toString();

  // The ranges that the source does not measure in grey, and its bands as bars at the top.
  function drawBands(chart) {
    return (plot) => {
      const { ctx, bbox } = plot;
      const fill = (low, high, top, height, colour) => {
        const left = Math.max(bbox.left, plot.valToPos(low, "x", true));
        const right = Math.min(bbox.left + bbox.width, plot.valToPos(high, "x", true));
        if (right <= left) return;
        ctx.fillStyle = colour;
        ctx.fillRect(left, top, right - left, height);
      };
      ctx.save();
      for (const [low, high] of chart.unmeasured) fill(low, high, bbox.top, bbox.height, GREY);
      for (const [low, high] of chart.source_bands) fill(low, high, bbox.top, bbox.height * 0.035, chart.colour + "a6");
      ctx.restore();
    };
  }

  function lineOf(series) {
    return {
      label: series.name, stroke: series.colour, width: series.width, dash: series.dashes,
      points: { show: false }, spanGaps: false, value: (_plot, value) => shown(value, 4),
    };
  }

  function draw(card, chart, panel, key) {
    const tables = [[chart.nm, ...panel.series.map((series) => series.values)]];
    const series = [{ label: "nm", value: (_plot, value) => shown(value, 6) }, ...panel.series.map(lineOf)];
    if (panel.measured) {  // uPlot joins the two wavelength axes; a value of one axis breaks no line of the other
      tables.push([chart.source_nm, panel.measured]);
      series.push({
        label: "measured", stroke: chart.colour, value: (_plot, value) => shown(value, 4), paths: () => null,
        points: { show: true, size: 7, fill: "#fff", width: 1.4 },
      });
    }
    const line = { stroke: GRID, width: 1 };
    const axis = { stroke: INK, grid: line, ticks: line, font: "12px sans-serif", labelFont: "12px sans-serif", labelSize: 22 };
    const powers = (_plot, values) => values.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));
    const scale = panel.is_logarithmic ? { distr: 3 } : panel.limit ? { range: [-panel.limit, panel.limit] } : {};
    const place = document.createElement("div");
    place.className = "chart";
    card.append(place);
    const plot = new uPlot({
      width: card.clientWidth - 16, height: panel.height, series,
      scales: { x: { time: false }, y: scale },
      axes: [
        { ...axis, label: "wavelength (nm)", size: 36, values: (_plot, values) => values },
        { ...axis, label: panel.label, size: 58, grid: panel.is_logarithmic ? { ...line, filter: powers } : line },
      ],
      bands: panel.has_interval ? [{ series: [2, 1], fill: panel.series[0].colour + "38" }] : [],
      legend: { markers: { fill: (_plot, at) => [INK, ...panel.series.map((one) => one.colour), "#fff"][at] } },
      cursor: { sync: { key }, focus: { prox: 24 }, hover: { skip: [undefined], prox: 12 }, drag: { x: true, y: false } },
      focus: { alpha: 0.45 },
      hooks: { drawClear: [drawBands(chart)] },
    }, uPlot.join(tables), place);
    return plot;
  }

  // Left and right move along the bands; Home and End go to the first and last.
  function moveByKeys(card, plot) {
    const nm = plot.data[0];
    card.tabIndex = 0;
    card.addEventListener("keydown", (event) => {
      const at = plot.cursor.idx ?? -1;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: nm.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      plot.setCursor({ left: plot.valToPos(nm[Math.min(Math.max(to, 0), nm.length - 1)], "x"), top: plot.over.clientHeight / 2 });
    });
  }

  document.querySelectorAll("[data-chart]").forEach((card, number) => {
    const chart = JSON.parse(card.dataset.chart);
    const picture = card.querySelector("img");
    const plots = chart.panels.map((panel) => draw(card, chart, panel, `chart${number}`));
    card.classList.add("live");
    card.setAttribute("role", "group");
    card.setAttribute("aria-label", picture.alt);
    moveByKeys(card, plots[0]);
    new ResizeObserver(() => {
      for (const plot of plots) plot.setSize({ width: card.clientWidth - 16, height: plot.height });
    }).observe(card);
  });
})();
