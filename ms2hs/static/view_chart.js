"use strict";
// The chart of the spectra, drawn by uPlot: lines with 90 % intervals, dots at measured bands, inferred ranges in grey.

const INTERVAL_SIGMAS = 1.645; // half the width of the 90 % interval
const DASHES = [[], [7, 4], [2, 3]]; // by layer

/** A colour of the style sheet, resolved for the theme in use. */
function themeColor(name) {
  document.body.style.setProperty("outline-color", `var(${name})`);
  const color = getComputedStyle(document.body).outlineColor;
  document.body.style.removeProperty("outline-color");
  return color;
}

/** Ranges [from, to] in nm of the wavelengths whose support is `inferred`, half-way to the neighbouring bands. */
function inferredRanges(layer) {
  const nm = layer.order.map((band) => layer.wavelength_nm[band]);
  const ranges = [];
  layer.order.forEach((band, i) => {
    if (layer.support[band] !== "inferred") return;
    const from = i ? Math.max((nm[i - 1] + nm[i]) / 2, nm[i] - 25) : nm[i] - 5;
    const to = i < nm.length - 1 ? Math.min((nm[i] + nm[i + 1]) / 2, nm[i] + 25) : nm[i] + 5;
    const last = ranges.at(-1);
    if (last && from - last[1] < 1e-6) last[1] = to;
    else ranges.push([from, to]);
  });
  return ranges;
}

/** The wavelengths of a layer for the chart, ascending, with a null inside each wide gap; and which band each is. */
function axisOf(layer) {
  const nm = layer.order.map((band) => layer.wavelength_nm[band]);
  const steps = nm.slice(1).map((value, i) => value - nm[i]).sort((a, b) => a - b);
  const widest = Math.max(40, 4 * (steps[steps.length >> 1] ?? 0));
  const axis = [];
  nm.forEach((value, i) => {
    if (i && value - nm[i - 1] > widest) axis.push({ nm: (value + nm[i - 1]) / 2, band: null });
    axis.push({ nm: i && value <= nm[i - 1] ? axis.at(-1).nm + 1e-6 : value, band: layer.order[i] });
  });
  return axis;
}

class SpectrumChart {
  /** `events` has `cursor(nm | null)` and `pick(nm)`. */
  constructor(element, events) {
    Object.assign(this, { element, events, entries: [], preview: null, bands: [], hasInterval: true, plot: null });
    this.axes = META.layers.map(axisOf);
    this.ranges = inferredRanges(META.layers[0]);
    const nm = META.layers[0].wavelength_nm;
    this.wholeRange = [Math.min(...nm), Math.max(...nm)];
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(element);
  }

  size() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  /** Draw these entries: `{layer, color, values, sigma}`, or of references `{nm, values, color}`. */
  setEntries(entries) {
    this.entries = entries;
    this.rebuild();
  }

  /** Draw one more spectrum, of the pixel under the cursor, without changing the others. */
  setPreview(spectrum) {
    this.preview = spectrum;
    if (!this.plot) return;
    this.plot.setData(this.table(), false);
    this.plot.setScale("y", this.yRange());
  }

  setBands(bands) {
    this.bands = bands;
    if (this.plot) this.plot.redraw(false);
  }

  columns(entry) {
    if (entry.nm) return [entry.nm, entry.values];
    const axis = this.axes[entry.layer];
    const at = (stored, sigma, times) =>
      axis.map(({ band }) => {
        if (band === null || !stored || stored[band] === NODATA) return null;
        if (!times) return reflectance(stored[band]);
        return sigma[band] === NODATA ? null : (stored[band] + times * sigma[band]) / 10000;
      });
    const columns = [axis.map(({ nm }) => nm), at(entry.values)];
    if (entry.sigma && this.hasInterval) {
      columns.push(at(entry.values, entry.sigma, INTERVAL_SIGMAS), at(entry.values, entry.sigma, -INTERVAL_SIGMAS));
    }
    return columns;
  }

  table() {
    const preview = { layer: 0, values: this.preview && this.preview.values };
    const table = uPlot.join([...this.entries, preview].map((entry) => this.columns(entry)));
    for (const column of table.slice(1)) {
      // a gap reaches over the wavelengths of other spectra inside it, where join leaves undefined
      for (let i = 1; i < column.length; i++) if (column[i] === undefined && column[i - 1] === null) column[i] = null;
      for (let i = column.length; i-- > 1; ) if (column[i - 1] === undefined && column[i] === null) column[i - 1] = null;
    }
    return table;
  }

  /** From 0, or the lowest value, to the next tenth above the highest; of dark spectra, to the next twentieth. */
  yRange() {
    let [low, high] = [0, 0.02];
    for (const entry of [...this.entries, { values: this.preview && this.preview.values, layer: 0 }]) {
      for (const column of this.columns(entry).slice(1)) {
        for (const value of column) {
          if (value === null || value === undefined) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    const step = high > 0.4 ? 0.1 : 0.05;
    return { min: low * 1.05, max: Math.ceil((high * 1.02) / step) * step };
  }

  rebuild() {
    const before = this.plot && [this.plot.scales.x.min, this.plot.scales.x.max];
    if (this.plot) this.plot.destroy();
    const colors = Object.fromEntries(["text", "muted", "grid", "inferred", "line"].map((name) => [name, themeColor(`--${name}`)]));
    const series = [{}];
    const bands = [];
    for (const entry of this.entries) {
      const first = series.length;
      const line = { stroke: entry.color, width: 2, dash: DASHES[entry.layer ?? 2] ?? DASHES[1] };
      const isLine = !META.layers[entry.layer]?.are_dots;
      series.push({ ...line, points: this.dots(entry), ...(isLine ? {} : { paths: () => null }) });
      if (this.columns(entry).length === 4) {
        const edge = { stroke: "transparent", width: 0, points: { show: false } };
        series.push(edge, { ...edge });
        const fill = entry.color.replace("rgb(", "rgba(").replace(")", `, ${entry.layer ? 0.1 : 0.17})`);
        bands.push({ series: [first + 1, first + 2], fill });
      }
    }
    series.push({ stroke: colors.muted, width: 1.5, points: { show: false } });
    const axis = { stroke: colors.muted, grid: { stroke: colors.grid, width: 1 }, ticks: { stroke: colors.line, width: 1 } };
    const font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
    const options = {
      ...this.size(),
      series,
      bands,
      legend: { show: false },
      padding: [10, 14, 0, 0],
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false, dist: 6 } },
      scales: { x: { time: false }, y: { auto: false } },
      axes: [
        { ...axis, font, labelFont: font, label: "Wavelength (nm)", labelSize: 20, size: 34, values: (_, ticks) => ticks.map(String) },
        { ...axis, font, labelFont: font, label: "Reflectance", labelSize: 22, size: 46 },
      ],
      hooks: {
        drawClear: [(plot) => this.drawInferred(plot, colors.inferred)],
        draw: [(plot) => this.drawBands(plot)],
        setCursor: [(plot) => this.events.cursor(plot.cursor.left < 0 ? null : plot.posToVal(plot.cursor.left, "x"))],
      },
    };
    this.plot = new uPlot(options, this.table(), this.element);
    this.plot.setScale("y", this.yRange());
    if (before && before[0] !== null) this.plot.setScale("x", { min: before[0], max: before[1] });
    this.plot.over.addEventListener("click", (event) => {
      const box = this.plot.over.getBoundingClientRect();
      this.events.pick(this.plot.posToVal(event.clientX - box.left, "x"));
    });
    this.plot.over.addEventListener("dblclick", () => this.fit());
  }

  /** Dots at the values of the scene; without one, at the bands that the source measures. */
  dots(entry) {
    if (META.layers[entry.layer]?.are_dots) return { show: true, size: 8, width: 2, fill: themeColor("--panel") };
    if (entry.layer !== 0 || META.layers.some((layer) => layer.are_dots)) return { show: false };
    const { support } = META.layers[0];
    const measured = new Set(this.axes[0].filter(({ band }) => support[band] === "measured").map(({ nm }) => nm));
    const filter = (plot) => plot.data[0].flatMap((nm, i) => (measured.has(nm) ? [i] : []));
    return { show: true, size: 5, width: 1, fill: entry.color, filter };
  }

  fit() {
    const nm = this.plot.data[0];
    this.plot.setScale("x", { min: nm[0], max: nm.at(-1) });
  }

  drawInferred(plot, color) {
    const { left, top, width, height } = plot.bbox;
    plot.ctx.save();
    plot.ctx.beginPath();
    plot.ctx.rect(left, top, width, height);
    plot.ctx.clip();
    plot.ctx.fillStyle = color;
    for (const [from, to] of this.ranges) {
      const [start, end] = [from, to].map((nm) => plot.valToPos(nm, "x", true));
      plot.ctx.fillRect(start, top, end - start, height);
    }
    plot.ctx.restore();
  }

  /** Small triangles below the wavelengths that the picture shows. */
  drawBands(plot) {
    const { left, top, width, height } = plot.bbox;
    const size = 6 * devicePixelRatio;
    for (const { nm, color } of this.bands) {
      const at = plot.valToPos(nm, "x", true);
      if (at < left || at > left + width) continue;
      plot.ctx.beginPath();
      plot.ctx.moveTo(at, top + height - size * 1.6);
      plot.ctx.lineTo(at - size, top + height);
      plot.ctx.lineTo(at + size, top + height);
      plot.ctx.fillStyle = color;
      plot.ctx.fill();
    }
  }
}
