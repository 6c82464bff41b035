"use strict";
// What enters and leaves the page as files: reference spectra, the kept spectra as CSV, picture and chart as PNG.

/**
 * Spectra of a text: two columns, wavelength and reflectance, or columns of these names. The column `id`, or those of
 * the CSV that this page saves, separate spectra.
 */
function parseReferences(text, name) {
  const rows = text.split(/\r?\n/).map((line) => line.split(/[,;\t]/).map((cell) => cell.trim().replace(/^"|"$/g, "")));
  const head = rows[0].map((cell) => cell.toLowerCase());
  const column = (start) => head.findIndex((cell) => cell.startsWith(start));
  const [x, y] = column("wavelength") < 0 ? [0, 1] : [column("wavelength"), column("reflectance")];
  const keys = ["id", "spectrum", "cube"].map((one) => head.indexOf(one)).filter((at) => at >= 0);
  const spectra = new Map();
  for (const row of rows) {
    const point = [x, y].map((at) => (row[at] ? Number(row[at]) : NaN));
    if (!point.every(Number.isFinite)) continue;
    const key = [name, ...keys.map((at) => row[at])].join(" ");
    spectra.set(key, [...(spectra.get(key) ?? []), point]);
  }
  if (!spectra.size) throw new Error(`${name}: no numbers; two columns are needed, wavelength and reflectance.`);
  return [...spectra].map(([key, points]) => {
    points.sort((a, b) => a[0] - b[0]);
    const factor = points.at(-1)[0] < 100 ? 1000 : 1; // micrometres
    const highest = Math.max(...points.map((point) => point[1]));
    if (highest > 2) throw new Error(`${key}: values up to ${highest}; reflectance from 0 to 1 is needed.`);
    return { name: key, nm: points.map((point) => point[0] * factor), values: points.map((point) => point[1]) };
  });
}

async function addReferences(files) {
  for (const file of files) {
    try {
      const added = [...state.references, ...parseReferences(await file.text(), file.name)];
      if (added.length > MOST_REFERENCES) throw new Error(`At most ${MOST_REFERENCES} references are shown.`);
      state.references = added;
    } catch (error) {
      byId("wavelength").textContent = error.message;
      say(error.message);
      return;
    }
  }
  update();
}

const csvCell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = /^[=+@]/.test(text) ? `'${text}` : text; // no formula for spreadsheets
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** One row a band and spectrum; the last columns are as `ms2hs spectrum` prints them. */
function csvText() {
  const head = "spectrum,cube,row,col,lon,lat,band,wavelength_nm,fwhm_nm,reflectance,sigma,support,good";
  const lines = state.pixels.flatMap((pixel) =>
    pixel.spectra.flatMap(({ values, sigma }, i) => {
      const layer = META.layers[i];
      const at = lonLat(pixel.row, pixel.col)?.map((degrees) => degrees.toFixed(7)) ?? ["", ""];
      return layer.order.map((band) => [
        pixel.slot + 1, layer.name, pixel.row, pixel.col, ...at, layer.names[band], layer.wavelength_nm[band],
        layer.fwhm_nm[band], reflectance(values[band]), sigma ? reflectance(sigma[band]) : null, layer.support[band],
        layer.good[band] ? 1 : 0,
      ]);
    }),
  );
  const ofReferences = state.references.flatMap(({ name, nm, values }) =>
    nm.map((wavelength, i) => [name, "", "", "", "", "", "", wavelength, "", values[i], "", "", ""]),
  );
  return [head, ...[...lines, ...ofReferences].map((cells) => cells.map(csvCell).join(","))].join("\n") + "\n";
}

/** The text of a cell, its lines separated by dots. */
const textOf = (cell) => [...cell.childNodes].map((part) => part.textContent).filter(Boolean).join(" · ");

/** Picture, chart and list of the spectra as one image. */
function pngCanvas() {
  const plot = chart.plot.ctx.canvas;
  const ratio = devicePixelRatio || 1;
  const [gap, line] = [16 * ratio, 22 * ratio];
  const from = picture.canvas;
  const shown = { width: (from.width * plot.height) / from.height, height: plot.height };
  const rows = [...byId("pixels").tBodies[0].rows].map((row) => [row.entry, [...row.cells].map(textOf)]);
  const canvas = document.createElement("canvas");
  canvas.width = shown.width + plot.width + 3 * gap;
  canvas.height = plot.height + (rows.length + 2) * line + 2 * gap;
  const context = canvas.getContext("2d");
  context.fillStyle = themeColor("--panel");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "middle";
  const write = (text, x, y, color, weight = 400) => {
    context.font = `${weight} ${13 * ratio}px system-ui, sans-serif`;
    context.fillStyle = color;
    context.fillText(text, x, y, canvas.width - x - gap);
  };
  const text = themeColor("--text");
  write(META.title, gap, gap + line / 2, text, 600);
  context.fillStyle = themeColor("--stage");
  context.fillRect(gap, gap + line, shown.width, shown.height);
  context.drawImage(from, gap, gap + line, shown.width, shown.height);
  context.drawImage(plot, shown.width + 2 * gap, gap + line);
  rows.forEach(([entry, [name, place, value]], i) => {
    const y = gap + line * 1.5 + plot.height + (i + 0.8) * line;
    const heading = byId("value-head").textContent;
    write(entry.slot === undefined ? "– –" : name, gap, y, entry.slot === undefined ? text : colorOf(entry), 600);
    write(`${place} · ${heading}: ${value}`, gap + 2 * line, y, text);
  });
  return canvas;
}

function save(blob, suffix) {
  const link = element("a", "", { download: `${META.stem}_spectra.${suffix}` });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
