"use strict";
// The page: kept pixels, controls, and the wiring of picture and chart.

const SLOTS = 8;
const MOST_REFERENCES = 20;
const PRESETS = [
  { name: "Natural colour", nm: [650, 550, 470], reach: 35 },
  { name: "Vegetation", nm: [865, 650, 550], reach: 35 },
  { name: "Short-wave IR", nm: [2200, 1650, 850], reach: 60 },
];
const CHANNELS = ["Red", "Green", "Blue"];
const CHANNEL_COLORS = ["#d9362b", "#2b8a3e", "#2f6fe0"];
const byId = (id) => document.getElementById(id);
const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");

const source = META.served ? new ServedCubes() : new EmbeddedCubes();
const state = { pixels: [], references: [...META.references], layer: 0, bands: [], nm: null, next: 0, preview: null };

const picture = new Picture(byId("picture"), source, {
  hover: (pixel, isByKey) => hover(pixel, isByKey),
  keep: (row, col) => keep(row, col),
  removeLast: () => state.pixels.length && remove(state.pixels.at(-1)),
  moved: () => drawScaleBar(),
});
const chart = new SpectrumChart(byId("chart"), {
  cursor: (nm) => showWavelength(nm),
  pick: (nm) => setBands([nearestBand(META.layers[state.layer], nm)]),
});

/** An element with text and attributes; text of files enters the page here only, as text. */
function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(text) {
  byId("status").textContent = text;
}

function placeText(row, col) {
  const at = lonLat(row, col);
  if (!at) return "";
  const [lon, lat] = at.map((degrees) => `${Math.abs(degrees).toFixed(5)}°`);
  return `${lat} ${at[1] < 0 ? "S" : "N"}, ${lon} ${at[0] < 0 ? "W" : "E"}`;
}

function pixelText(row, col) {
  const end = (value, size) => Math.min(value + META.step, size) - 1;
  const part = (value, size) => (META.step > 1 ? `${value}–${end(value, size)}` : value);
  return `row ${part(row, META.height)}, column ${part(col, META.width)}`;
}

/** The first row and column of the shown pixel that holds a pixel of the file. */
const snapped = (row, col) => [row, col].map((value) => Math.floor(value / META.step) * META.step);

async function spectraAt(row, col) {
  return Promise.all(META.layers.map((_, layer) => source.spectrum(layer, row, col)));
}

const isEmpty = (spectrum) => spectrum.values.every((stored) => stored === NODATA);

async function keep(row, col) {
  [row, col] = snapped(row, col);
  if (state.pixels.some((pixel) => pixel.row === row && pixel.col === col)) return;
  const spectra = await spectraAt(row, col).catch(report);
  if (!spectra) return;
  if (isEmpty(spectra[0])) {
    byId("pointer").textContent = `${pixelText(row, col)}: no data`;
    say(`${pixelText(row, col)} has no data`);
    return;
  }
  if (state.pixels.length === SLOTS) state.pixels.shift();
  const used = new Set(state.pixels.map((pixel) => pixel.slot));
  const slot = [...Array(SLOTS).keys()].map((i) => (state.next + i) % SLOTS).find((one) => !used.has(one));
  state.next = slot + 1;
  state.pixels.push({ row, col, slot, spectra });
  update();
  say(`Spectrum ${slot + 1} kept: ${pixelText(row, col)}`);
}

function remove(entry) {
  state.pixels = state.pixels.filter((pixel) => pixel !== entry);
  state.references = state.references.filter((reference) => reference !== entry);
  if (!state.pixels.length) state.next = 0;
  update();
}

const colorOf = (pixel) => themeColor(`--c${pixel.slot + 1}`);

/** Draw markers, chart and table of the kept pixels and references. */
function update() {
  picture.markers = state.pixels.map((pixel) => ({ ...pixel, color: colorOf(pixel), text: String(pixel.slot + 1) }));
  picture.draw();
  const entries = state.pixels.flatMap((pixel) =>
    pixel.spectra.map((spectrum, layer) => ({ ...spectrum, layer, color: colorOf(pixel) })),
  );
  const ofReferences = state.references.map((reference) => ({ ...reference, color: themeColor("--text") }));
  chart.setEntries([...entries, ...ofReferences]);
  const rows = state.pixels.map((pixel) => pixelRow(pixel));
  rows.push(...state.references.map((reference) => referenceRow(reference)));
  byId("pixels").tBodies[0].replaceChildren(...rows);
  byId("pixels").hidden = !rows.length;
  showWavelength(state.nm);
}

function pixelRow(pixel) {
  const row = element("tr");
  const name = element("td");
  name.append(element("span", pixel.slot + 1, { class: "badge" }));
  name.firstChild.style.background = `var(--c${pixel.slot + 1})`;
  const place = element("td", pixelText(pixel.row, pixel.col));
  place.append(element("div", placeText(pixel.row, pixel.col), { class: "readout" }));
  row.append(name, place, element("td"), element("td"));
  row.lastChild.append(removeButton(pixel, `Remove spectrum ${pixel.slot + 1}`));
  row.entry = pixel;
  return row;
}

function referenceRow(reference) {
  const row = element("tr");
  row.append(element("td", "CSV"), element("td", reference.name), element("td"), element("td"));
  row.lastChild.append(removeButton(reference, `Remove reference ${reference.name}`));
  row.entry = reference;
  return row;
}

function removeButton(entry, label) {
  const button = element("button", "×", { type: "button", "aria-label": label });
  button.addEventListener("click", () => remove(entry));
  return button;
}

/** Value and half-width of the 90 % interval of a spectrum at a band. */
function valueText({ values, sigma }, band) {
  if (values[band] === NODATA) return "no value";
  const width = sigma && sigma[band] !== NODATA ? ` ± ${fixed((INTERVAL_SIGMAS * sigma[band]) / 10000, 4)}` : "";
  return fixed(values[band] / 10000, 4) + width;
}

/** Value of a layer's spectrum at a wavelength; of a scene only within its bands. */
function layerText(spectrum, i, nm) {
  const layer = META.layers[i];
  const band = nearestBand(layer, nm);
  if (layer.are_dots && Math.abs(layer.wavelength_nm[band] - nm) > layer.fwhm_nm[band] / 2) return "";
  const name = layer.are_dots ? `${layer.names[band]} of ${layer.name}` : layer.name;
  return valueText(spectrum, band) + (i ? ` (${name})` : "");
}

/** Show the values of all spectra at a wavelength; without one, at the first band of the picture. */
function showWavelength(nm) {
  state.nm = nm;
  const layer = META.layers[0];
  const at = nm ?? META.layers[state.layer].wavelength_nm[state.bands[0] ?? 0];
  const band = nearestBand(layer, at);
  const support = layer.support[band] ? ` · ${layer.support[band]}` : "";
  const bad = layer.good[band] ? "" : " · flagged as bad by the sensor's products";
  byId("wavelength").textContent =
    `${layer.names[band]} · ${fixed(layer.wavelength_nm[band], 1)} nm, width ${fixed(layer.fwhm_nm[band], 1)} nm${support}${bad}`;
  byId("value-head").textContent = `At ${fixed(layer.wavelength_nm[band], 0)} nm`;
  for (const row of byId("pixels").tBodies[0].rows) {
    const { spectra, nm: wavelengths, values } = row.entry;
    const ofReference = () => [values.length ? fixed(values[nearestIndex(wavelengths, at)], 4) : ""];
    const texts = spectra ? spectra.map((spectrum, i) => layerText(spectrum, i, at)) : ofReference();
    const lines = texts.filter(Boolean).map((text) => element("div", text));
    row.cells[2].replaceChildren(...lines);
  }
}

const nearestIndex = (wavelengths, nm) =>
  wavelengths.reduce((best, value, i) => (Math.abs(value - nm) < Math.abs(wavelengths[best] - nm) ? i : best), 0);

let isAsking = false;
async function hover(pixel, isByKey = false) {
  state.preview = pixel && snapped(...pixel);
  picture.cursor = isByKey || !pixel ? pixel : null;
  picture.draw();
  if (!state.preview) {
    byId("pointer").textContent = "Click or tap a pixel to keep its spectrum.";
    chart.setPreview(null);
    return;
  }
  const [row, col] = state.preview;
  byId("pointer").textContent = [pixelText(row, col), placeText(row, col)].filter(Boolean).join(" · ");
  if (isByKey) say(byId("pointer").textContent);
  if (isAsking) return; // the answer on its way looks at the latest pixel
  isAsking = true;
  try {
    let asked;
    do {
      asked = state.preview;
      const spectrum = source.spectrumNow ? source.spectrumNow(0, ...asked) : await source.spectrum(0, ...asked);
      chart.setPreview(state.preview && spectrum);
    } while (state.preview && asked.join() !== state.preview.join());
  } catch (error) {
    report(error);
  } finally {
    isAsking = false;
  }
}

function report(error) {
  byId("pointer").textContent = `No answer: ${error.message}`;
  say(byId("pointer").textContent);
}

// Bands of the picture -----------------------------------------------------------------------------------------------

function presetBands(preset) {
  const layer = META.layers[state.layer];
  const bands = preset.nm.map((nm) => nearestBand(layer, nm));
  return bands.every((band, i) => Math.abs(layer.wavelength_nm[band] - preset.nm[i]) <= preset.reach) ? bands : null;
}

function buildPresets() {
  const buttons = PRESETS.filter(presetBands).map((preset) => {
    const button = element("button", preset.name, { type: "button", "aria-pressed": "false" });
    button.addEventListener("click", () => setBands(presetBands(preset)));
    button.bands = presetBands(preset);
    return button;
  });
  const one = element("button", "One band", { type: "button", "aria-pressed": "false" });
  one.addEventListener("click", () => setBands([state.bands[0]]));
  const three = element("button", "Any three", { type: "button", "aria-pressed": "false" });
  three.addEventListener("click", () => setBands(state.bands.length === 3 ? state.bands : spreadBands(), true));
  one.kind = "one";
  three.kind = "three";
  byId("presets").replaceChildren(...buttons, three, one);
}

/** Three bands spread over the spectrum, the longest wavelength first. */
function spreadBands() {
  const { order } = META.layers[state.layer];
  return [5 / 6, 3 / 6, 1 / 6].map((share) => order[Math.floor(order.length * share)]);
}

let bandTimer;
function setBands(bands, isFree = false) {
  const isSameCount = bands.length === state.bands.length;
  state.bands = bands;
  const buttons = [...byId("presets").children];
  const preset = isFree ? null : buttons.find((button) => button.bands && button.bands.join() === bands.join());
  for (const button of buttons) {
    const isOn = button === preset || (!preset && button.kind === (bands.length === 1 ? "one" : "three"));
    button.setAttribute("aria-pressed", isOn);
  }
  if (!isSameCount || !byId("sliders").children.length) buildSliders();
  const layer = META.layers[state.layer];
  [...byId("sliders").children].forEach((label, i) => {
    const input = label.querySelector("input");
    input.value = layer.order.indexOf(bands[i]);
    const text = `${fixed(layer.wavelength_nm[bands[i]], 0)} nm`;
    input.setAttribute("aria-valuetext", text);
    label.querySelector("output").textContent = text;
  });
  const colors = bands.length === 3 ? CHANNEL_COLORS : [themeColor("--muted")];
  chart.setBands(bands.map((band, i) => ({ nm: layer.wavelength_nm[band], color: colors[i] })));
  showWavelength(state.nm);
  clearTimeout(bandTimer);
  bandTimer = setTimeout(() => picture.show(state.layer, bands).catch(report), META.served ? 150 : 0);
}

function buildSliders() {
  const layer = META.layers[state.layer];
  const names = state.bands.length === 3 ? CHANNELS : ["Band"];
  const labels = names.map((name, i) => {
    const label = element("label", name);
    const input = element("input", "", { type: "range", min: 0, max: layer.order.length - 1, step: 1 });
    if (names.length === 3) input.style.accentColor = CHANNEL_COLORS[i];
    input.addEventListener("input", () => {
      const bands = [...state.bands];
      bands[i] = layer.order[Number(input.value)];
      setBands(bands, true);
    });
    label.append(input, element("output"));
    return label;
  });
  byId("sliders").replaceChildren(...labels);
}

function showLayer(layer) {
  state.layer = layer;
  state.bands = [];
  buildPresets();
  setBands(PRESETS.map(presetBands).find(Boolean) ?? spreadBands());
}

function drawScaleBar() {
  const bar = byId("scale-bar");
  bar.hidden = !META.pixel_m;
  if (bar.hidden || !picture.view) return;
  const perMetre = picture.view.scaleX / picture.ratio / META.pixel_m;
  const most = 130 / perMetre;
  const power = 10 ** Math.floor(Math.log10(most));
  const metres = [5, 2, 1].map((times) => times * power).find((length) => length <= most);
  bar.firstElementChild.style.width = `${metres * perMetre}px`;
  bar.firstElementChild.textContent = metres >= 1000 ? `${metres / 1000} km` : `${metres} m`;
}

// The page -----------------------------------------------------------------------------------------------------------

function keyItem(drawing, text) {
  const item = element("li", text);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  Object.entries({ width: 26, height: 12, "aria-hidden": true }).forEach(([name, value]) => svg.setAttribute(name, value));
  for (const [tag, attributes] of drawing) {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => part.setAttribute(name, value));
    svg.append(part);
  }
  item.prepend(svg);
  return item;
}

function buildKey() {
  const line = (dash) => ["path", { d: "M1 6H25", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": dash }];
  const box = (fill, opacity) => ["rect", { x: 0, y: 0, width: 26, height: 12, style: `fill: ${fill}`, "fill-opacity": opacity }];
  const first = META.layers[0];
  const items = [];
  if (first.has_sigma) items.push(keyItem([box("currentColor", 0.25), line("")], "90 % interval (± 1.645 σ)"));
  if (first.support.includes("measured") && !META.layers.some((layer) => layer.are_dots)) {
    items.push(keyItem([line(""), ["circle", { cx: 13, cy: 6, r: 4, fill: "currentColor" }]], "band that the source measures"));
  }
  if (first.support.includes("inferred")) items.push(keyItem([box("var(--inferred)", 1)], "inferred: not measured by the source"));
  META.layers.slice(1).forEach((layer, i) => {
    const ring = ["circle", { cx: 13, cy: 6, r: 4, fill: "none", stroke: "currentColor", "stroke-width": 2 }];
    items.push(keyItem([layer.are_dots ? ring : line(DASHES[i + 1] ?? DASHES[1])], layer.are_dots ? `measured (${layer.name})` : layer.name));
  });
  byId("key").replaceChildren(...items);
}

function wire() {
  const click = (id, action) => byId(id).addEventListener("click", action);
  click("zoom-in", () => picture.zoom(1.5));
  click("zoom-out", () => picture.zoom(1 / 1.5));
  click("zoom-fit", () => picture.fit());
  click("chart-fit", () => chart.fit());
  click("clear", () => {
    Object.assign(state, { pixels: [], references: [], next: 0 });
    update();
  });
  click("band-button", () => {
    chart.hasInterval = !chart.hasInterval;
    byId("band-button").setAttribute("aria-pressed", chart.hasInterval);
    chart.rebuild();
  });
  byId("band-button").hidden = !META.layers.some((layer) => layer.has_sigma);
  click("save-csv", () => save(new Blob([csvText()], { type: "text/csv" }), "csv"));
  click("save-png", () => pngCanvas().toBlob((blob) => save(blob, "png")));
  click("add-reference", () => byId("reference-file").click());
  byId("reference-file").addEventListener("change", (event) => addReferences([...event.target.files]));
  click("help-button", () => byId("help").showModal());
  click("theme-button", () => {
    const themes = ["system", "light", "dark"];
    const theme = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % themes.length];
    document.documentElement.dataset.theme = theme;
    byId("theme-button").setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system" : theme}`);
    byId("theme-button").textContent = theme === "system" ? "Theme" : theme === "light" ? "Light" : "Dark";
    update();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  byId("layer").addEventListener("change", (event) => showLayer(Number(event.target.value)));
}

async function start() {
  for (const [name, value] of META.facts) {
    const fact = element("span", name ? `${name} ` : value);
    if (name) fact.append(element("strong", value));
    byId("facts").append(fact);
  }
  byId("footer").textContent = META.footer;
  byId("thinned").textContent = META.notice;
  byId("thinned").hidden = !META.notice;
  const shown = META.layers.filter((layer) => !layer.are_dots);
  byId("layer-label").hidden = shown.length < 2;
  byId("layer").replaceChildren(...shown.map((layer, i) => element("option", layer.name, { value: i })));
  buildKey();
  wire();
  try {
    await source.load();
  } catch (error) {
    byId("loading").textContent = `The cube cannot be read (${error.message}). Open the page in a browser of 2024 or later.`;
    return;
  }
  showLayer(0);
  for (const [row, col] of META.examples) await keep(row, col);
  hover(null);
  byId("loading").hidden = true;
  document.body.dataset.ready = "yes";
}

start();
