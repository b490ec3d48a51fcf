"use strict";

// What is where: `data` is what page.py wrote. A layer keeps the boxes of frame i from starts[i] to starts[i + 1].
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const EARLY = 0.0015; // s; time stamps of containers and of results are rounded differently
const STEP_AHEAD = 0.001; // s; a seek aims just behind the time stamp of the frame that is wanted

const state = {
  clip: null, frame: 0, score: 0.3, captions: true, side: false, colors: "class",
  shown: new Set(), // classes, by label
  layers: [], // for each layer of the clip whether it is shown
};
let stages = [];
let player = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function rangeOf(layer, frame) {
  return [layer.starts[frame], layer.starts[frame + 1]];
}

function isShown(layer, row) {
  return state.shown.has(layer.labels[row]) && (layer.truth || layer.scores[row] >= state.score);
}

function hue(number) {
  return `oklch(0.78 0.15 ${(number * 137.508 + 240) % 360})`; // equally light, so dark text is readable on each
}

function colorOf(index, row) {
  const layer = state.clip.layers[index];
  if (layer.truth) return "#ffffff";
  if (state.colors === "layer") return hue(index);
  if (state.colors === "track" && layer.tracks && layer.tracks[row] >= 0) return hue(layer.tracks[row]);
  return hue(layer.labels[row]);
}

// ---- The frames: a video or pictures, behind one interface: seek, play, pause, picture, and `onFrame` calls.

function frameAt(time) {
  const times = state.clip.times;
  let low = 0, high = times.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= time + EARLY) low = middle; else high = middle - 1;
  }
  return low;
}

class VideoPlayer {
  constructor(source, onFrame, onError) {
    this.start = state.clip.media.start ?? 0; // results count from the first frame, browsers from the file's zero
    this.element = make("video", { muted: true, playsInline: true, preload: "auto", src: source });
    this.element.setAttribute("aria-hidden", "true"); // the live region and the list tell what is seen
    this.onFrame = onFrame;
    this.wanted = null;
    this.isWaiting = false;
    this.element.addEventListener("error", () => onError());
    this.element.addEventListener("loadeddata", () => this.begin());
    this.element.addEventListener("seeked", () => this.arrived());
    this.element.addEventListener("play", tellPlaying);
    this.element.addEventListener("pause", tellPlaying);
    if (this.element.requestVideoFrameCallback) {
      const next = (now, metadata) => {
        this.shown(metadata.mediaTime);
        this.element.requestVideoFrameCallback(next);
      };
      this.element.requestVideoFrameCallback(next);
    } else {
      const next = () => {
        if (this.isPlaying) this.shown(this.element.currentTime);
        if (this.element.isConnected) requestAnimationFrame(next);
      };
      requestAnimationFrame(next);
    }
  }
  get isPlaying() { return !this.element.paused && !this.element.ended; }
  get picture() { return this.element; }
  begin() { // this.wanted was set before there was anything to seek in
    if (this.wanted !== null) this.go(); else this.shown(this.element.currentTime);
  }
  shown(time) { this.onFrame(frameAt(time - this.start)); }
  seek(frame) { // a held key asks for more frames than can be decoded: only the last one counts
    this.wanted = frame;
    if (!this.isWaiting && this.element.readyState > 0) this.go();
  }
  go() {
    this.isWaiting = true;
    this.sought = this.wanted;
    this.element.currentTime = this.start + state.clip.times[this.wanted] + STEP_AHEAD;
  }
  arrived() {
    this.isWaiting = false;
    if (this.wanted === null) return;
    this.onFrame(this.sought);
    if (this.wanted === this.sought) this.wanted = null; else this.go();
  }
  play() { this.wanted = null; this.element.play().catch(() => {}); }
  pause() { this.element.pause(); }
  set speed(value) { this.element.playbackRate = value; }
  close() { this.element.pause(); this.element.removeAttribute("src"); this.element.load(); }
}

class PicturePlayer {
  constructor(sources, onFrame, onError) {
    this.element = make("img", { alt: "" });
    this.sources = sources;
    this.onFrame = onFrame;
    this.onError = onError;
    this.cache = new Map();
    this.speed = 1;
    this.timer = null;
    this.wanted = 0;
  }
  get isPlaying() { return this.timer !== null; }
  get picture() { return this.element; }
  load(frame) {
    let picture = this.cache.get(frame);
    if (!picture) {
      picture = make("img", { src: this.sources[frame] });
      this.cache.set(frame, picture);
      if (this.cache.size > 48) this.cache.delete(this.cache.keys().next().value);
    }
    return picture;
  }
  seek(frame) {
    this.wanted = frame;
    const show = () => {
      if (this.wanted !== frame) return;
      this.element.src = this.sources[frame];
      this.onFrame(frame);
      for (let ahead = 1; ahead <= 4 && frame + ahead < this.sources.length; ahead++) this.load(frame + ahead);
    };
    return this.load(frame).decode().then(show, () => { if (this.wanted === frame) { show(); this.onError(); } });
  }
  play() {
    const times = state.clip.times;
    const start = this.wanted >= times.length - 1 ? 0 : this.wanted;
    let frame = start;
    const step = () => {
      if (frame >= times.length - 1) { this.pause(); return; }
      const wait = Math.min(1, Math.max(0.005, times[frame + 1] - times[frame])) / this.speed;
      const began = performance.now();
      frame += 1;
      this.timer = setTimeout(() => this.seek(frame).then(() => {
        if (this.timer !== null) step();
      }), Math.max(0, 1000 * wait - (performance.now() - began)));
    };
    this.timer = 0;
    if (start !== this.wanted) this.seek(start);
    step();
    tellPlaying();
  }
  pause() { clearTimeout(this.timer); this.timer = null; tellPlaying(); }
  close() { this.pause(); }
}

// ---- Drawing

function buildStages() {
  const clip = state.clip;
  const runs = clip.layers.map((_, index) => index).filter((index) => !clip.layers[index].truth);
  const truths = clip.layers.map((_, index) => index).filter((index) => clip.layers[index].truth);
  const groups = state.side && runs.length > 1 ? runs.map((run) => [run, ...truths]) : [[...runs, ...truths]];
  stages = groups.map((layers, place) => {
    const canvas = make("canvas");
    const stage = make("div", { className: "stage" }, ...(place === 0 ? [player.element] : []), canvas);
    stage.style.aspectRatio = `${clip.width} / ${clip.height}`;
    stage.style.setProperty("--ratio", clip.width / clip.height);
    canvas.setAttribute("role", "img");
    canvas.addEventListener("click", () => toggle());
    const caption = make("figcaption", { textContent: clip.layers[layers[0]].name, hidden: groups.length === 1 });
    return { layers, canvas, figure: make("figure", {}, caption, stage), isCopy: place > 0 };
  });
  $("stages").classList.toggle("side", groups.length > 1);
  $("stages").replaceChildren(...stages.map((stage) => stage.figure));
  for (const stage of stages) sizes.observe(stage.canvas);
}

const sizes = new ResizeObserver(() => { redraw(); drawTimeline(); });

function fit(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const wide = canvas.clientWidth, high = height ?? canvas.clientHeight;
  const [w, h] = [Math.round(wide * ratio), Math.round(high * ratio)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, wide, high);
  return [pen, wide, high];
}

function redraw() {
  if (!state.clip) return;
  for (const stage of stages) drawStage(stage);
}

function drawStage(stage) {
  const [pen, wide, high] = fit(stage.canvas);
  if (stage.isCopy) {
    try { pen.drawImage(player.picture, 0, 0, wide, high); } catch { /* no picture yet */ }
  }
  const scale = wide / state.clip.width;
  const size = Math.max(11, Math.min(15, wide / 60));
  pen.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  pen.textBaseline = "middle";
  const rows = stage.layers.filter((index) => state.layers[index]).flatMap((index) => {
    const layer = state.clip.layers[index];
    const [start, end] = rangeOf(layer, state.frame);
    return Array.from({ length: end - start }, (_, place) => [layer, index, start + place]).filter(([, , row]) => isShown(layer, row));
  });
  // The dashes of later layers lie on the lines of the first; within a layer the surest is on top.
  const order = [...rows].sort((one, other) => one[1] - other[1] || other[2] - one[2]);
  for (const [layer, index, row] of order) drawBox(pen, layer, index, row, scale, size);
  const taken = [];
  if (state.captions) for (const [layer, index, row] of rows) drawCaption(pen, layer, index, row, scale, wide, high, size, taken);
  const told = rows.slice(0, 8).map(([layer, , row]) => captionOf(layer, row));
  stage.canvas.setAttribute("aria-label", `Frame ${state.frame + 1}: ${told.join(", ") || "nothing"}`);
}

function captionOf(layer, row) {
  const track = layer.tracks && layer.tracks[row] >= 0 ? ` #${layer.tracks[row]}` : "";
  return data.classes[layer.labels[row]] + track + (layer.truth ? "" : ` ${layer.scores[row].toFixed(2)}`);
}

function drawBox(pen, layer, index, row, scale, size) {
  const [x1, y1, x2, y2] = layer.boxes.slice(4 * row, 4 * row + 4).map((side) => side * scale);
  const color = colorOf(index, row);
  const width = Math.max(1.5, size / 6);
  const runsBefore = state.clip.layers.slice(0, index).filter((one) => !one.truth).length;
  const dashes = layer.truth ? [2 * width, 2 * width] : state.side || !runsBefore ? [] : [5 * width, 2 * width];
  pen.setLineDash([]);
  pen.lineWidth = width + 2;
  pen.strokeStyle = "rgb(0 0 0 / .55)";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.setLineDash(dashes);
  pen.lineWidth = width;
  pen.strokeStyle = color;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

function drawCaption(pen, layer, index, row, scale, wide, high, size, taken) {
  const [x1, y1, , y2] = layer.boxes.slice(4 * row, 4 * row + 4).map((side) => side * scale);
  const text = captionOf(layer, row);
  const length = pen.measureText(text).width + 8;
  const tall = size + 5;
  const x = Math.min(Math.max(0, x1 - 1), Math.max(0, wide - length));
  // Annotations write below their box, detections above; each where no other caption stands, if there is room.
  const step = layer.truth ? tall : -tall;
  const wanted = Math.max(0, Math.min(high - tall, layer.truth ? y2 : y1 - tall));
  const isFree = (y) => !taken.some((one) => x < one.x + one.length && one.x < x + length && Math.abs(one.y - y) < tall - 0.5);
  const tries = [0, 1, 2, 3, -1, -2].map((count) => wanted + count * step).filter((y) => y >= 0 && y <= high - tall);
  const y = (taken.length < 200 ? tries.find(isFree) : undefined) ?? wanted;
  taken.push({ x, y, length });
  pen.fillStyle = colorOf(index, row);
  pen.fillRect(x, y, length, tall);
  pen.fillStyle = "#10131a";
  pen.fillText(text, x + 4, y + tall / 2 + 0.5);
}

// ---- The timeline: a band for each class; in it a bar for each track, or the surest detection of each frame.

const AXIS = 20, PLAIN = 12, LANE = 5, LANES = 12;

function measureLayer(layer, frames) {
  // For each label the highest score of each frame, and the tracks with their lanes: none of two overlaps in one.
  const best = new Map();
  const tracks = new Map();
  for (let frame = 0; frame < frames; frame++) {
    for (let row = layer.starts[frame]; row < layer.starts[frame + 1]; row++) {
      const label = layer.labels[row];
      let scores = best.get(label);
      if (!scores) best.set(label, scores = new Float32Array(frames));
      scores[frame] = Math.max(scores[frame], layer.scores[row]);
      if (layer.tracks && layer.tracks[row] >= 0) {
        const key = `${label} ${layer.tracks[row]}`;
        let track = tracks.get(key);
        if (!track) tracks.set(key, track = { label, id: layer.tracks[row], row, first: frame, frames: [], scores: [] });
        track.frames.push(frame);
        track.scores.push(layer.scores[row]);
        track.last = frame;
      }
    }
  }
  const lanes = new Map();
  for (const track of tracks.values()) {
    const ends = lanes.get(track.label) ?? [];
    lanes.set(track.label, ends);
    let lane = ends.findIndex((end) => end < track.first);
    if (lane < 0) lane = ends.length < LANES ? ends.length : LANES - 1;
    ends[lane] = track.last;
    track.lane = lane;
  }
  return { best, tracks: [...tracks.values()], lanes: new Map([...lanes].map(([label, ends]) => [label, ends.length])) };
}

function bands() {
  // The place of each class and layer, from top to bottom.
  const result = [];
  let y = AXIS;
  for (const label of state.clip.order) {
    if (!state.shown.has(label)) continue;
    const band = { label, y, parts: [] };
    state.clip.layers.forEach((layer, index) => {
      const found = state.clip.measured[index];
      if (!state.layers[index] || !found.best.has(label)) return;
      const height = found.lanes.has(label) ? Math.max(PLAIN, LANE * found.lanes.get(label) + 2) : PLAIN;
      band.parts.push({ index, y, height });
      y += height + 1;
    });
    if (!band.parts.length) continue;
    y += 4;
    result.push(band);
  }
  return [result, Math.max(y, AXIS + PLAIN) + 2];
}

function xOf(frame, wide) {
  const gutter = Math.max(48, Math.min(wide / 5, 140, state.clip.gutter ?? 0)); // holds the names of the classes
  return gutter + (frame / state.clip.times.length) * (wide - gutter - 8);
}

let timelinePicture = null; // all but the cursor, drawn again only when something else than the frame changes

function drawTimeline() {
  if (!state.clip) return;
  const canvas = $("timeline").firstElementChild;
  const [rows, height] = bands();
  canvas.style.height = `${height}px`;
  const [pen, wide] = fit(canvas, height);
  const frames = state.clip.times.length;
  const style = getComputedStyle(document.body);
  const faint = getComputedStyle($("legend")).color;
  pen.font = `12px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  state.clip.gutter ??= 16 + Math.max(0, ...state.clip.order.map((label) => pen.measureText(data.classes[label]).width));
  const left = xOf(0, wide), full = xOf(frames, wide) - left;
  drawAxis(pen, wide, faint, height);
  for (const band of rows) {
    pen.fillStyle = style.color;
    pen.fillText(shortened(pen, data.classes[band.label], left - 14), 8, band.y + PLAIN / 2);
    for (const part of band.parts) drawPart(pen, part, band.label, left, full, frames, faint);
  }
  if (!rows.length) {
    pen.fillStyle = faint;
    pen.fillText("Nothing is shown with these classes and layers.", left, AXIS + PLAIN / 2);
  }
  timelinePicture = document.createElement("canvas");
  [timelinePicture.width, timelinePicture.height] = [canvas.width, canvas.height];
  timelinePicture.getContext("2d").drawImage(canvas, 0, 0);
  drawCursor();
}

function shortened(pen, text, most) {
  if (pen.measureText(text).width <= most) return text;
  let end = Math.min(text.length, 60);
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > most) end--;
  return `${text.slice(0, end)}…`;
}

function drawAxis(pen, wide, faint, height) {
  const times = state.clip.times, frames = times.length;
  const span = times[frames - 1] - times[0];
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find((one) => span / one <= wide / 90) ?? 7200;
  pen.fillStyle = faint;
  pen.textAlign = "center";
  for (let time = Math.ceil(times[0] / step) * step; time <= times[frames - 1]; time += step) {
    const x = xOf(frameAt(time), wide);
    pen.globalAlpha = 0.25;
    pen.fillRect(x, AXIS - 4, 1, height);
    pen.globalAlpha = 1;
    const text = step < 1 ? `${time.toFixed(1)} s` : time < 60 ? `${Math.round(time)} s`
      : `${Math.floor(time / 60)}:${String(Math.round(time % 60)).padStart(2, "0")}`;
    pen.fillText(text, Math.min(x, wide - 16), 9);
  }
  pen.textAlign = "left";
}

function drawPart(pen, part, label, left, full, frames, faint) {
  const layer = state.clip.layers[part.index];
  const found = state.clip.measured[part.index];
  const plain = layer.truth ? faint : state.colors === "layer" ? hue(part.index) : hue(label);
  const step = full / frames;
  if (found.lanes.has(label)) {
    for (const track of found.tracks) {
      if (track.label !== label) continue;
      pen.fillStyle = layer.truth || state.colors !== "track" ? plain : hue(track.id);
      const y = part.y + 1 + LANE * track.lane;
      let start = -1, end = -1;
      const flush = () => { if (start >= 0) pen.fillRect(left + start * step, y, Math.max(1.5, (end + 1 - start) * step), LANE - 1); };
      track.frames.forEach((frame, place) => {
        if (!layer.truth && track.scores[place] < state.score) return;
        if (start >= 0 && (frame - end) * step > Math.max(step, 1.5)) { flush(); start = frame; }
        if (start < 0) start = frame;
        end = frame;
      });
      flush();
    }
    return;
  }
  const scores = found.best.get(label);
  const columns = Math.max(1, Math.min(frames, Math.floor(full)));
  pen.fillStyle = plain;
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column * frames) / columns), to = Math.floor(((column + 1) * frames) / columns);
    let best = 0;
    for (let frame = from; frame < to; frame++) if (scores[frame] > best) best = scores[frame];
    if (best <= 0 || (!layer.truth && best < state.score)) continue;
    const height = layer.truth ? 4 : Math.max(2, best * PLAIN);
    pen.fillRect(left + (column * full) / columns, part.y + PLAIN - height, Math.max(1, full / columns + 0.3), height);
  }
}

function drawCursor() {
  const canvas = $("timeline").firstElementChild;
  if (!timelinePicture || !canvas.clientWidth) return;
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(timelinePicture, 0, 0);
  const ratio = canvas.width / canvas.clientWidth;
  const x = xOf(state.frame + 0.5, canvas.clientWidth) * ratio;
  pen.fillStyle = getComputedStyle($("play")).backgroundColor;
  pen.fillRect(x - ratio, 0, 2 * ratio, canvas.height);
  pen.beginPath();
  pen.arc(x, 4 * ratio, 4 * ratio, 0, 7);
  pen.fill();
}

// ---- What stands beside the video

function showFrame(frame) {
  state.frame = frame;
  const clip = state.clip, count = clip.times.length;
  redraw();
  drawCursor();
  $("position").textContent = `${clip.times[frame].toFixed(2)} s · frame ${clip.numbers[frame]} · ${frame + 1} of ${count}`;
  const line = $("timeline");
  line.setAttribute("aria-valuemax", count);
  line.setAttribute("aria-valuenow", frame + 1);
  line.setAttribute("aria-valuetext", `frame ${frame + 1} of ${count}, ${clip.times[frame].toFixed(2)} seconds`);
  showList();
  for (const button of $("worst").querySelectorAll("button")) {
    button.setAttribute("aria-current", button.isHere());
  }
  if (!player.isPlaying) tell();
}

function shownRows(frame) {
  const rows = [];
  state.clip.layers.forEach((layer, index) => {
    if (!state.layers[index]) return;
    const [start, end] = rangeOf(layer, frame);
    for (let row = start; row < end; row++) if (isShown(layer, row)) rows.push([index, row]);
  });
  return rows;
}

const LISTED = 60;

function showList() {
  const rows = shownRows(state.frame);
  const several = state.clip.layers.length > 1;
  $("frame-count").textContent = rows.length;
  const items = rows.slice(0, LISTED).map(([index, row]) => {
    const layer = state.clip.layers[index];
    const swatch = make("span", { className: layer.truth ? "swatch truth" : "swatch" });
    if (!layer.truth) swatch.style.background = colorOf(index, row);
    const track = layer.tracks && layer.tracks[row] >= 0 ? ` #${layer.tracks[row]}` : "";
    const name = make("span", { className: "name", textContent: data.classes[layer.labels[row]] + track });
    const origin = several ? (layer.truth ? "truth" : layer.name) : "";
    const number = layer.truth ? origin : [origin, layer.scores[row].toFixed(2)].filter(Boolean).join(" ");
    return make("li", {}, swatch, name, make("span", { className: "number", textContent: number }));
  });
  if (rows.length > LISTED) items.push(make("li", { className: "empty", textContent: `and ${rows.length - LISTED} more` }));
  if (!rows.length) items.push(make("li", { className: "empty", textContent: emptyReason() }));
  $("list").replaceChildren(...items);
}

function emptyReason() {
  const looked = state.clip.layers.some((layer, index) => state.layers[index] && (!layer.coveredSet || layer.coveredSet.has(state.frame)));
  return looked ? "Nothing from this score on." : "No shown layer has results for this frame.";
}

let telling = 0;

function tell() { // after a pause, so that holding a key does not read every frame
  clearTimeout(telling);
  telling = setTimeout(() => {
    const rows = shownRows(state.frame);
    const names = rows.slice(0, 10).map(([index, row]) => captionOf(state.clip.layers[index], row));
    $("live").textContent = `Frame ${state.frame + 1}: ${names.join(", ") || "nothing"}`;
    const place = data.clips.indexOf(state.clip);
    try { history.replaceState(null, "", `#clip=${place}&frame=${state.frame}`); } catch { /* not allowed here */ }
  }, 350);
}

function tellPlaying() {
  const playing = player?.isPlaying ?? false;
  $("play").textContent = playing ? "Pause" : "Play"; // the label for screen readers, too
  if (!playing && state.clip) tell();
}

function showLayers() {
  const clip = state.clip;
  $("layers").replaceChildren(...clip.layers.map((layer, index) => {
    const box = make("input", { type: "checkbox", checked: state.layers[index] });
    box.addEventListener("change", () => { state.layers[index] = box.checked; changed(); });
    const swatch = make("span", { className: layer.truth ? "swatch truth" : "swatch" });
    if (!layer.truth) swatch.style.background = state.colors === "layer" ? hue(index) : "var(--faint)";
    const name = make("span", { className: "name", textContent: layer.name, title: layer.name });
    return make("li", {}, make("label", {}, box, swatch, name, make("kbd", { textContent: index + 1, hidden: index > 8 })));
  }));
  $("side-row").hidden = clip.layers.filter((layer) => !layer.truth).length < 2;
}

function countClasses() {
  const counts = new Map();
  state.clip.layers.forEach((layer, index) => {
    if (!state.layers[index]) return;
    for (let row = 0; row < layer.scores.length; row++) {
      if (layer.truth || layer.scores[row] >= state.score) counts.set(layer.labels[row], (counts.get(layer.labels[row]) ?? 0) + 1);
    }
  });
  for (const swatch of $("classes").querySelectorAll(".swatch")) {
    swatch.style.background = state.colors === "class" ? hue(swatch.dataset.label) : "var(--faint)";
  }
  for (const label of state.clip.order) {
    state.clip.counters.get(label).textContent = counts.get(label) ?? 0;
  }
}

function showClasses() {
  const clip = state.clip;
  clip.counters = new Map();
  $("classes").replaceChildren(...clip.order.map((label) => {
    const box = make("input", { type: "checkbox", checked: state.shown.has(label) });
    box.addEventListener("change", () => {
      if (box.checked) state.shown.add(label); else state.shown.delete(label);
      changed();
    });
    const swatch = make("span", { className: "swatch" });
    swatch.dataset.label = label;
    const number = make("span", { className: "number" });
    clip.counters.set(label, number);
    return make("li", {}, make("label", {}, box, swatch, make("span", { className: "name", textContent: data.classes[label], title: data.classes[label] }), number));
  }));
  countClasses();
}

function showWorst() {
  const all = worstOfAll();
  $("worst-section").hidden = !all.length;
  const several = state.clip.layers.filter((layer) => !layer.truth).length > 1;
  $("worst").replaceChildren(...all.map(([clip, one]) => {
    const words = [...(data.clips.length > 1 ? [clip.name] : []), `frame ${clip.numbers[one.frame]}`];
    const details = [`${one.missed} missed`, `${one.false} false`, ...(several ? [clip.layers[one.layer].name] : [])];
    const button = make("button", { type: "button" },
      make("span", { className: "name" }, words.join(" · "), make("br"), make("small", { textContent: details.join(" · ") })),
      make("span", { className: "number", textContent: one.cost.toFixed(1) }));
    button.addEventListener("click", () => goTo(clip, one.frame));
    button.isHere = () => clip === state.clip && one.frame === state.frame;
    return make("li", {}, button);
  }));
}

function worstOfAll() { // the worst first, over all clips
  return data.clips.flatMap((clip) => clip.worst.map((one) => [clip, one])).sort((one, other) => other[1].cost - one[1].cost);
}

function showSettings() {
  const items = state.clip.layers.flatMap((layer) => Object.entries(layer.settings)
    .filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length))
    .flatMap(([key, value]) => [
      make("dt", { textContent: key.replaceAll("_", " ") }),
      make("dd", { textContent: typeof value === "object" ? JSON.stringify(value) : String(value) }),
    ]));
  $("settings").replaceChildren(...items);
}

function changed() { // the score, a class, a layer or the colours
  $("score-value").textContent = state.score.toFixed(2);
  $("score").value = state.score;
  $("captions").checked = state.captions;
  $("colors").value = state.colors;
  $("side").checked = state.side;
  redraw();
  showList();
  countClasses();
  requestTimeline();
}

let timelineAsked = false;

function requestTimeline() { // once a screen refresh, however fast the slider moves
  if (timelineAsked) return;
  timelineAsked = true;
  requestAnimationFrame(() => { timelineAsked = false; drawTimeline(); });
}

// ---- Acting

function seek(frame) {
  const last = state.clip.times.length - 1;
  player.pause();
  player.seek(Math.max(0, Math.min(last, frame)));
}

function step(by) {
  seek((player.wanted ?? state.frame) + by);
}

function toggle() {
  if (player.isPlaying) player.pause(); else player.play();
}

function jumpToChange(direction) {
  const count = (frame) => shownRows(frame).length;
  const last = state.clip.times.length - 1;
  let frame = state.frame;
  const before = count(frame);
  while (frame + direction >= 0 && frame + direction <= last) {
    frame += direction;
    if (count(frame) !== before) break;
  }
  seek(frame);
}

function jumpToWorst(direction) {
  const all = worstOfAll();
  if (!all.length) return;
  const here = all.findIndex(([clip, one]) => clip === state.clip && one.frame === state.frame);
  const [clip, one] = all[here < 0 ? 0 : (here + direction + all.length) % all.length];
  goTo(clip, one.frame);
}

function goTo(clip, frame) {
  if (clip === state.clip) seek(frame); else openClip(data.clips.indexOf(clip), frame);
}

function openClip(place, frame = 0) {
  player?.close();
  const clip = state.clip = data.clips[place];
  if (!clip.measured) {
    clip.measured = clip.layers.map((layer) => measureLayer(layer, clip.times.length));
    const counts = new Map();
    for (const layer of clip.layers) {
      layer.coveredSet = layer.covered && new Set(layer.covered);
      for (const label of layer.labels) counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    clip.order = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one));
  }
  state.layers = clip.layers.map(() => true);
  state.shown = new Set(clip.order);
  state.frame = Math.max(0, Math.min(clip.times.length - 1, frame));
  const runs = clip.layers.filter((layer) => !layer.truth);
  state.colors = runs.length > 1 ? "layer" : runs.some((layer) => layer.tracks) ? "track" : "class";
  $("clip").value = place;
  document.title = `${clip.name} · flowdet`;
  const found = runs.map((layer) => `${layer.scores.length} detections`);
  $("subtitle").textContent = `${clip.times.length} frames, ${found.join(" and ")}, ${clip.width}×${clip.height}`;
  const hints = ["Bars: the surest detection of each frame."];
  if (runs.some((layer) => layer.tracks)) hints[0] = "A bar for each track.";
  $("legend").textContent = `${hints[0]} Drag along the timeline; ? shows all keys.`;
  showLayers(); showClasses(); showWorst(); showSettings();
  openMedia(clip.media.sources);
  changed();
}

function openMedia(sources) {
  const clip = state.clip;
  $("notice").hidden = true;
  const missing = () => {
    $("notice").hidden = false;
    $("notice-text").textContent = clip.media.kind === "video"
      ? `The video of ${clip.name} is not where this page looks for it, or this browser cannot play it. Boxes and timeline work without it.`
      : `The pictures of ${clip.name} are not where this page looks for them. Boxes and timeline work without them.`;
  };
  const Player = clip.media.kind === "video" ? VideoPlayer : PicturePlayer;
  const hasAll = clip.media.kind === "video" ? sources.length === 1 : sources.length === clip.times.length;
  player = hasAll ? new Player(clip.media.kind === "video" ? sources[0] : sources, showFrame, () => { missing(); withoutPicture(); }) : new PicturePlayer(clip.times.map(() => BLACK), showFrame, () => {});
  if (!hasAll) missing();
  player.speed = Number($("speed").value);
  buildStages();
  showFrame(state.frame);
  player.seek(state.frame);
}

const BLACK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAAAAACH5BAAAAAAALAAAAAABAAEAAAICTAEAOw==";

function withoutPicture() { // stepping and the timeline go on
  if (state.clip.media.kind !== "video") return;
  player = new PicturePlayer(state.clip.times.map(() => BLACK), showFrame, () => {});
  buildStages();
  player.seek(state.frame);
}

function choose(files) {
  const clip = state.clip;
  const chosen = [...files].sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  if (!chosen.length) return;
  if (chosen[0].type.startsWith("video/")) clip.media = { ...clip.media, kind: "video" };
  const urls = chosen.map((file) => URL.createObjectURL(file));
  const byNumber = clip.numbers.map((number) => urls[number] ?? urls[urls.length - 1]);
  openMedia(clip.media.kind === "video" ? urls.slice(0, 1) : byNumber);
}

function setScore(value) {
  state.score = Math.max(0, Math.min(1, Math.round(value * 100) / 100));
  changed();
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  drawTimeline();
}

function setSide(side) {
  if ($("side-row").hidden) return;
  state.side = side;
  buildStages();
  changed();
}

const keys = {
  " ": toggle,
  ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
  ",": () => step(-1),
  ".": () => step(1),
  Home: () => seek(0),
  End: () => seek(state.clip.times.length - 1),
  "[": () => jumpToChange(-1),
  "]": () => jumpToChange(1),
  n: () => jumpToWorst(1),
  p: () => jumpToWorst(-1),
  "+": () => setScore(state.score + 0.05),
  "=": () => setScore(state.score + 0.05),
  "-": () => setScore(state.score - 0.05),
  s: () => setSide(!state.side),
  c: () => { const names = ["class", "track", "layer"]; state.colors = names[(names.indexOf(state.colors) + 1) % 3]; changed(); showLayers(); },
  l: () => { state.captions = !state.captions; changed(); },
  f: () => (document.fullscreenElement ? document.exitFullscreen() : $("viewer").requestFullscreen?.()),
  d: switchTheme,
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const tag = event.target.tagName;
  const takesKeys = tag === "SELECT" || (tag === "INPUT" && event.target.type === "range" && event.key.startsWith("Arrow"));
  if (takesKeys || (event.key === " " && ["BUTTON", "INPUT", "SUMMARY", "A"].includes(tag))) return;
  if (/^[1-9]$/.test(event.key)) {
    const index = Number(event.key) - 1;
    if (index >= state.layers.length) return;
    state.layers[index] = !state.layers[index];
    showLayers();
    changed();
  } else if (keys[event.key]) {
    keys[event.key](event);
  } else return;
  event.preventDefault();
});

function start() {
  if (data.home) document.querySelector("h1").replaceChildren(make("a", { href: data.home, textContent: "flowdet", title: "Another clip" }));
  data.clips.forEach((clip, place) => $("clip").append(make("option", { value: place, textContent: clip.name })));
  document.querySelector(".clip-choice").hidden = data.clips.length < 1;
  $("clip").addEventListener("change", () => openClip(Number($("clip").value)));
  $("first").addEventListener("click", keys.Home);
  $("back").addEventListener("click", () => step(-1));
  $("play").addEventListener("click", toggle);
  $("forward").addEventListener("click", () => step(1));
  $("last").addEventListener("click", keys.End);
  $("speed").addEventListener("change", () => { player.speed = Number($("speed").value); });
  $("score").addEventListener("input", () => setScore(Number($("score").value)));
  $("captions").addEventListener("change", keys.l);
  $("colors").addEventListener("change", () => { state.colors = $("colors").value; changed(); showLayers(); });
  $("side").addEventListener("change", () => setSide($("side").checked));
  $("theme").addEventListener("click", switchTheme);
  $("help-button").addEventListener("click", keys["?"]);
  $("chooser").addEventListener("change", () => choose($("chooser").files));
  const showAll = (all) => { state.shown = new Set(all ? state.clip.order : []); showClasses(); changed(); };
  $("all-classes").addEventListener("click", () => showAll(true));
  $("no-classes").addEventListener("click", () => showAll(false));
  const line = $("timeline");
  const drag = (event) => {
    const box = line.firstElementChild.getBoundingClientRect();
    const left = xOf(0, box.width), right = xOf(state.clip.times.length, box.width);
    seek(Math.floor(((event.clientX - box.left - left) / (right - left)) * state.clip.times.length));
  };
  line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); drag(event); });
  line.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  sizes.observe(line);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTimeline);
  const place = new URLSearchParams(location.hash.slice(1));
  const clip = Number(place.get("clip"));
  openClip(clip in data.clips ? clip : 0, Number(place.get("frame")) || 0);
}

start();
