"use strict";
// The pixels of the cubes: embedded in the page, or requested from the server that gave the page.
// Stored numbers are int16: reflectance in steps of 1e-4, NODATA where a pixel has no value.

const META = JSON.parse(document.getElementById("meta").textContent);
const NODATA = -32768;

/** Reflectance of a stored number, null without a value. */
const reflectance = (stored) => (stored === NODATA ? null : stored / 10000);

for (const layer of META.layers) {
  layer.order = layer.wavelength_nm.map((_, band) => band).sort((a, b) => layer.wavelength_nm[a] - layer.wavelength_nm[b]);
}

/** The band of a layer with the centre nearest to a wavelength. */
function nearestBand(layer, nm) {
  const distance = (band) => Math.abs(layer.wavelength_nm[band] - nm);
  return layer.order.reduce((best, band) => (distance(band) < distance(best) ? band : best));
}

/** Longitude and latitude of a pixel's centre, between the points that META.lonlat gives; null without a CRS. */
function lonLat(row, col) {
  if (!META.lonlat) return null;
  const points = META.lonlat;
  const last = points.length - 1;
  const y = Math.min(Math.max((row + 0.5) / META.height, 0), 1) * last;
  const x = Math.min(Math.max((col + 0.5) / META.width, 0), 1) * last;
  const i = Math.min(Math.floor(y), last - 1);
  const j = Math.min(Math.floor(x), last - 1);
  const between = (axis) =>
    (points[i][j][axis] * (1 - x + j) + points[i][j + 1][axis] * (x - j)) * (1 - y + i) +
    (points[i + 1][j][axis] * (1 - x + j) + points[i + 1][j + 1][axis] * (x - j)) * (y - i);
  return [between(0), between(1)];
}

/** Cubes in the page: in base64, deflated, what a prediction of each band from the bands before it misses. */
class EmbeddedCubes {
  constructor() {
    this.rows = Math.ceil(META.height / META.step);
    this.cols = Math.ceil(META.width / META.step);
    this.cubes = [];
  }

  async load() {
    for (const [i, layer] of META.layers.entries()) {
      const values = await this.decode(`reflectance-${i}`, layer.coefficients.reflectance);
      const sigma = layer.has_sigma ? await this.decode(`sigma-${i}`, layer.coefficients.sigma) : null;
      this.cubes.push({ values, sigma });
    }
  }

  async decode(id, coefficients) {
    const element = document.getElementById(id);
    const text = atob(element.textContent);
    element.remove();
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const cube = new Int16Array(await new Response(stream).arrayBuffer());
    const size = this.rows * this.cols;
    const sum = new Float64Array(size);
    coefficients.forEach((ofBand, band) => {
      sum.fill(32768);
      ofBand.forEach((coefficient, j) => {
        const from = (band - 1 - j) * size;
        for (let i = 0; i < size; i++) sum[i] += coefficient * cube[from + i];
      });
      const to = band * size;
      for (let i = 0; i < size; i++) cube[to + i] += Math.floor(sum[i] / 65536); // wraps as in the encoder
    });
    return cube;
  }

  /** The planes of some bands; the whole picture, whatever part is visible. */
  async planes(layer, bands) {
    const size = this.rows * this.cols;
    const values = bands.map((band) => this.cubes[layer].values.subarray(band * size, (band + 1) * size));
    return { values, rows: this.rows, cols: this.cols, row: 0, col: 0, height: META.height, width: META.width };
  }

  spectrumNow(layer, row, col) {
    const size = this.rows * this.cols;
    const at = Math.floor(row / META.step) * this.cols + Math.floor(col / META.step);
    const { values, sigma } = this.cubes[layer];
    const pick = (cube) => META.layers[layer].wavelength_nm.map((_, band) => cube[band * size + at]);
    return { values: pick(values), sigma: sigma && pick(sigma) };
  }

  async spectrum(layer, row, col) {
    return this.spectrumNow(layer, row, col);
  }
}

/** Cubes behind the server of the page: windows and spectra on request. */
class ServedCubes {
  async load() {}

  async request(name, parameters) {
    const answer = await fetch(`${META.served}${name}?${new URLSearchParams(parameters)}`);
    if (!answer.ok) throw new Error(await answer.text());
    return new Int16Array(await answer.arrayBuffer());
  }

  /** The planes of some bands in a window of the cube, with at most as many pixels as the screen shows. */
  async planes(layer, bands, window = null, most = 1024) {
    const { row, col, height, width } = window ?? { row: 0, col: 0, height: META.height, width: META.width };
    const step = Math.max(1, Math.ceil(Math.max(height, width) / most));
    const rows = Math.ceil(height / step);
    const cols = Math.ceil(width / step);
    const all = await this.request("planes", { layer, bands, row, col, height, width, rows, cols });
    const values = bands.map((_, i) => all.subarray(i * rows * cols, (i + 1) * rows * cols));
    return { values, rows, cols, row, col, height, width };
  }

  async spectrum(layer, row, col) {
    const bands = META.layers[layer].wavelength_nm.length;
    const all = Array.from(await this.request("spectrum", { layer, row, col }));
    return { values: all.slice(0, bands), sigma: all.length > bands ? all.slice(bands) : null };
  }
}
