"use strict";
// The picture: one band in grey or three bands in colour, with zoom, a cursor, and the kept pixels.
// `view` has the position of the cube's corner on the canvas, and the size of a pixel: `scale` high, `scaleX` wide.

const STRETCH = [0.02, 0.98];
const MOST_ZOOM = 48;

class Picture {
  /** `events` has `hover(row, col | null)`, `keep(row, col)`, `removeLast()`, `moved()`. */
  constructor(canvas, source, events) {
    Object.assign(this, { canvas, source, events, base: null, detail: null, markers: [], cursor: null, view: null });
    this.pointers = new Map();
    this.version = 0;
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", (event) => this.onUp(event));
    canvas.addEventListener("pointercancel", (event) => this.onUp(event));
    canvas.addEventListener("pointerleave", () => this.pointers.size || this.events.hover(null));
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Show these bands of a layer: three as red, green, blue, or one in grey. */
  async show(layer, bands) {
    const version = ++this.version;
    const planes = await this.source.planes(layer, bands);
    if (version !== this.version) return;
    Object.assign(this, { layer, bands, detail: null, limits: limitsOf(planes.values) });
    this.base = this.render(planes);
    this.draw();
    this.canvas.dataset.bands = bands.join();
    this.wantDetail();
  }

  render(planes) {
    const image = new ImageData(planes.cols, planes.rows);
    const [low, high] = this.limits;
    const gain = 255 / Math.max(high - low, 1);
    const [red, green, blue] = planes.values.length === 3 ? planes.values : Array(3).fill(planes.values[0]);
    for (let i = 0, at = 0; i < red.length; i++, at += 4) {
      if (red[i] === NODATA || green[i] === NODATA || blue[i] === NODATA) continue; // stays transparent
      image.data[at] = (red[i] - low) * gain; // Uint8ClampedArray rounds and clamps
      image.data[at + 1] = (green[i] - low) * gain;
      image.data[at + 2] = (blue[i] - low) * gain;
      image.data[at + 3] = 255;
    }
    const surface = new OffscreenCanvas(planes.cols, planes.rows);
    surface.getContext("2d").putImageData(image, 0, 0);
    return { ...planes, surface };
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const wasFitted = this.view === null || this.isFitted;
    Object.assign(this.canvas, { width: Math.round(clientWidth * ratio), height: Math.round(clientHeight * ratio) });
    this.ratio = ratio;
    if (wasFitted) this.fit();
    else this.draw();
  }

  viewOf(scale, x, y) {
    return { scale, scaleX: scale * META.aspect, x, y };
  }

  /** Show the whole picture. */
  fit() {
    const { width, height } = this.canvas;
    const scale = Math.min(width / META.width / META.aspect, height / META.height);
    this.view = this.viewOf(scale, (width - META.width * META.aspect * scale) / 2, (height - META.height * scale) / 2);
    this.fitScale = scale;
    this.isFitted = true;
    this.draw();
    this.wantDetail();
  }

  /** Zoom about a point of the canvas, by default its middle. */
  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const most = Math.max(MOST_ZOOM * this.ratio, this.fitScale);
    const scale = Math.min(Math.max(this.view.scale * factor, this.fitScale), most);
    const change = scale / this.view.scale;
    this.view = this.viewOf(scale, x - (x - this.view.x) * change, y - (y - this.view.y) * change);
    this.settle();
  }

  /** Keep the picture on the canvas, and draw it. */
  settle() {
    const { scale, scaleX } = this.view;
    const extents = [["x", this.canvas.width, META.width * scaleX], ["y", this.canvas.height, META.height * scale]];
    for (const [axis, size, extent] of extents) {
      const room = size - extent;
      this.view[axis] = room >= 0 ? room / 2 : Math.min(0, Math.max(room, this.view[axis]));
    }
    this.isFitted = this.view.scale <= this.fitScale * 1.001;
    this.draw();
    this.wantDetail();
  }

  /** Request the visible window in full detail, where the base is coarser than the screen and nothing moves. */
  wantDetail() {
    clearTimeout(this.timer);
    if (!this.base || !META.served) return;
    if (this.view.scale <= (this.base.rows / META.height) * 1.01 || this.base.rows >= META.height) return;
    this.timer = setTimeout(async () => {
      const [row, col] = this.pixelAt(0, 0).map((value) => Math.max(0, value));
      const [bottom, right] = this.pixelAt(this.canvas.width, this.canvas.height);
      const height = Math.min(META.height, bottom + 1) - row;
      const width = Math.min(META.width, right + 1) - col;
      const version = this.version;
      const planes = await this.source.planes(this.layer, this.bands, { row, col, height, width });
      if (version !== this.version) return;
      this.detail = this.render(planes);
      this.draw();
    }, 120);
  }

  draw() {
    if (!this.base || !this.view) return;
    this.canvas.style.touchAction = this.isFitted ? "pan-y" : "none"; // a finger scrolls the page, or moves the picture
    const context = this.canvas.getContext("2d");
    const { scale, scaleX, x, y } = this.view;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const part of [this.base, this.detail]) {
      if (!part) continue;
      context.imageSmoothingEnabled = scale * (part.width / part.cols) < 1;
      const size = [part.width * scaleX, part.height * scale];
      context.drawImage(part.surface, x + part.col * scaleX, y + part.row * scale, ...size);
    }
    this.drawCursor(context);
    for (const marker of this.markers) this.drawMarker(context, marker);
    this.events.moved();
  }

  drawCursor(context) {
    if (!this.cursor) return;
    const { scale, scaleX, x, y } = this.view;
    const [row, col] = this.cursor.map((value) => Math.floor(value / META.step) * META.step);
    const [width, height] = [scaleX, scale].map((size) => Math.max(META.step * size, 7 * this.ratio));
    const left = x + (col + META.step / 2) * scaleX - width / 2;
    const top = y + (row + META.step / 2) * scale - height / 2;
    for (const [color, lineWidth] of [["#000", 3], ["#fff", 1.4]]) {
      Object.assign(context, { strokeStyle: color, lineWidth: lineWidth * this.ratio });
      context.strokeRect(left, top, width, height);
    }
  }

  drawMarker(context, { row, col, color, text }) {
    const { scale, scaleX, x, y } = this.view;
    const [at, down] = [x + (col + META.step / 2) * scaleX, y + (row + META.step / 2) * scale];
    const radius = 9 * this.ratio;
    context.beginPath();
    context.arc(at, down, radius, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: color, strokeStyle: "#fff", lineWidth: 2 * this.ratio });
    context.fill();
    context.stroke();
    const [red, green, blue] = color.match(/[\d.]+/g).map(Number);
    const isLight = 0.3 * red + 0.59 * green + 0.11 * blue > 140;
    Object.assign(context, { fillStyle: isLight ? "#000" : "#fff", textAlign: "center", textBaseline: "middle" });
    context.font = `600 ${11 * this.ratio}px system-ui, sans-serif`;
    context.fillText(text, at, down + 0.5 * this.ratio);
  }

  /** Row and column at a point of the canvas; they may lie outside the cube. */
  pixelAt(x, y) {
    return [Math.floor((y - this.view.y) / this.view.scale), Math.floor((x - this.view.x) / this.view.scaleX)];
  }

  pixelOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const [row, col] = this.pixelAt((event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio);
    return row >= 0 && row < META.height && col >= 0 && col < META.width ? [row, col] : null;
  }

  onWheel(event) {
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const at = [event.clientX - box.left, event.clientY - box.top].map((value) => value * this.ratio);
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...at);
  }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 1) this.isDragged = false;
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.events.hover(this.pixelOf(event));
      return;
    }
    const others = [...this.pointers.values()].filter((pointer) => pointer.pointerId !== event.pointerId);
    const moved = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (!this.isDragged && !others.length && Math.hypot(...moved) < 5) return;
    this.isDragged = true;
    if (others.length) {
      const box = this.canvas.getBoundingClientRect();
      const other = others[0];
      const span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const middle = [(event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top];
      this.zoom(span(event) / span(before), ...middle.map((value) => value * this.ratio));
    }
    const share = this.ratio / (others.length + 1);
    this.view.x += moved[0] * share;
    this.view.y += moved[1] * share;
    this.pointers.set(event.pointerId, event);
    this.settle();
  }

  onUp(event) {
    const wasDown = this.pointers.delete(event.pointerId);
    if (!wasDown || this.isDragged || event.type === "pointercancel" || event.button > 0) return;
    const pixel = this.pixelOf(event);
    if (pixel) this.events.keep(...pixel);
  }

  onKey(event) {
    const far = (event.shiftKey ? 10 : 1) * META.step;
    const moves = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] };
    const actions = {
      Enter: () => this.cursor && this.events.keep(...this.cursor),
      " ": () => this.cursor && this.events.keep(...this.cursor),
      Delete: () => this.events.removeLast(),
      Backspace: () => this.events.removeLast(),
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(moves[event.key] || actions[event.key])) return;
    event.preventDefault();
    if (actions[event.key]) {
      actions[event.key]();
      return;
    }
    const from = this.cursor ?? [Math.floor(META.height / 2), Math.floor(META.width / 2)];
    const [down, right] = moves[event.key];
    const row = Math.min(Math.max(from[0] + down, 0), META.height - 1);
    const col = Math.min(Math.max(from[1] + right, 0), META.width - 1);
    this.bringIntoView(row, col);
    this.events.hover([row, col], true);
  }

  bringIntoView(row, col) {
    const { scale, scaleX, x, y } = this.view;
    const margin = 24 * this.ratio;
    const at = { x: x + (col + 0.5) * scaleX, y: y + (row + 0.5) * scale };
    for (const [axis, size] of [["x", this.canvas.width], ["y", this.canvas.height]]) {
      this.view[axis] += Math.max(0, margin - at[axis]) - Math.max(0, at[axis] - size + margin);
    }
    this.settle();
  }
}

/** The 2nd and 98th percentile of the valid numbers of some planes together, so that hues are preserved. */
function limitsOf(planes) {
  const step = Math.max(1, Math.floor((planes[0].length * planes.length) / 200000)) | 1;
  const sample = [];
  for (let i = 0; i < planes[0].length; i += step) {
    if (planes.every((plane) => plane[i] !== NODATA)) for (const plane of planes) sample.push(plane[i]);
  }
  sample.sort((a, b) => a - b);
  return STRETCH.map((share) => sample[Math.round(share * (sample.length - 1))] ?? 0);
}
