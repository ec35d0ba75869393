// Rows of thumbnails. A thumbnail is asked for when it comes into view.
import { emptyBox, legend, lift, make, redraw, scrollBox, whenChanged } from "./dom.js";

const HANDFUL = 64; // thumbnails in one question to the kernel
const PAUSE = 20; // milliseconds in which questions are collected
const BORDER = 3; // pixels around a thumbnail
const SHAPE = 0.45; // width of a thumbnail over its height
const STIR = 6; // pixels that the pointer moves before a click becomes a frame

export function handfuls(ids, size = HANDFUL) {
  const parts = [];
  for (let i = 0; i < ids.length; i += size) parts.push(ids.slice(i, i + size));
  return parts;
}

// The cell that an arrow key leads to from cell `index` of `count`; -1: none, the key means something else.
export function cellAfter(key, index, count) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (index < 0 || !step || index + step < 0 || index + step >= count) return -1;
  return index + step;
}

// The images from the one that was clicked last to this one, in the order in which they are shown.
export function between(ids, last, id) {
  const [from, to] = [ids.indexOf(last), ids.indexOf(id)];
  return from < 0 ? [id] : ids.slice(Math.min(from, to), Math.max(from, to) + 1);
}

// Two corners of a frame as a box.
export function boxOf([x0, y0], [x1, y1]) {
  return { left: Math.min(x0, x1), right: Math.max(x0, x1), top: Math.min(y0, y1), bottom: Math.max(y0, y1) };
}

export function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

// CSS of a cell around a thumbnail of `height` pixels.
export function cellStyle(color, height) {
  const width = Math.round(height * SHAPE) + 2 * BORDER;
  return `border-color:${lift(color)};height:${height + 2 * BORDER}px;width:${width}px`;
}

// Asks for each thumbnail once, many in one question, and keeps what arrived.
export class Thumbnails {
  constructor(send, later = (work) => setTimeout(work, PAUSE)) {
    this.send = send; // takes a list of image numbers
    this.later = later;
    this.addresses = new Map(); // image number -> address of its picture
    this.waiting = new Map(); // image number -> <img> elements without a picture yet
    this.wanted = []; // image numbers of the next question
  }

  show(id, img) {
    if (this.addresses.has(id)) img.src = this.addresses.get(id);
    else if (this.waiting.has(id)) this.waiting.get(id).push(img);
    else {
      this.waiting.set(id, [img]);
      if (this.wanted.length === 0) this.later(() => this.ask());
      this.wanted.push(id);
    }
  }

  ask() {
    for (const ids of handfuls(this.wanted)) this.send(ids);
    this.wanted = [];
  }

  arrived(ids, buffers) {
    ids.forEach((id, i) => {
      const address = URL.createObjectURL(new Blob([buffers[i]], { type: "image/jpeg" }));
      this.addresses.set(id, address);
      for (const img of this.waiting.get(id) ?? []) img.src = address;
      this.waiting.delete(id);
    });
  }

  forget() {
    for (const address of this.addresses.values()) URL.revokeObjectURL(address);
  }
}

// A frame that is drawn with the pointer over `el`: `chosen` gets the cells in it, and the event that ended it.
function frameOver(el, chosen) {
  let start = null; // where the pointer went down
  let frame = null; // the drawn box, once the pointer has moved

  function down(event) {
    if (event.button === 0 && event.target.closest(".scroll") && !event.target.closest(".head")) {
      start = [event.clientX, event.clientY];
    }
  }

  function move(event) {
    if (!start) return;
    const box = boxOf(start, [event.clientX, event.clientY]);
    if (!frame && Math.max(box.right - box.left, box.bottom - box.top) < STIR) return;
    if (!frame) {
      frame = make("div", { class: "band" });
      el.append(frame);
    }
    const [w, h] = [box.right - box.left, box.bottom - box.top];
    const { left, top } = el.getBoundingClientRect(); // the page may lie in a box of its own, as in JupyterLab
    frame.setAttribute("style", `left:${box.left - left}px;top:${box.top - top}px;width:${w}px;height:${h}px`);
    event.preventDefault();
  }

  function up(event) {
    const drawn = frame;
    const box = start && boxOf(start, [event.clientX, event.clientY]);
    start = null;
    frame = null;
    if (!drawn) return;
    drawn.remove();
    window.addEventListener("click", swallow, { capture: true, once: true });
    setTimeout(() => window.removeEventListener("click", swallow, { capture: true }), 0);
    const cells = [...el.querySelectorAll("button.cell")];
    chosen(
      cells.filter((cell) => overlap(cell.getBoundingClientRect(), box)),
      event,
    );
  }

  function swallow(event) {
    event.stopPropagation();
    event.preventDefault();
  }

  el.addEventListener("pointerdown", down);
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", up);
  return () => {
    el.removeEventListener("pointerdown", down);
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", up);
  };
}

function render({ model, el }) {
  el.classList.add("hil", "hil-sheet");
  const thumbnails = new Thumbnails((ids) => model.send({ type: "need", ids }));
  const eye = new IntersectionObserver(seen, { rootMargin: "150px" });
  let last = null; // the image that was clicked last

  function seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      eye.unobserve(target);
      thumbnails.show(Number(target.dataset.id), target.firstChild);
    }
  }

  function hear(message, buffers) {
    if (message.type === "thumbs") thumbnails.arrived(message.ids, buffers);
  }

  const idsOf = (cells) => cells.map((cell) => Number(cell.dataset.id));
  const say = (message) => model.send({ ...message, state: model.get("state") });

  function clicked(id, event) {
    if (event.shiftKey) {
      const shown = idsOf([...el.querySelectorAll("button.cell")]);
      say({ type: "pick", images: between(shown, last, id), how: "add" });
    } else if (event.ctrlKey || event.metaKey) say({ type: "pick", images: [id], how: "toggle" });
    else model.send({ type: "click", image: id });
    last = id;
  }

  function cell([id, color, caption, tip]) {
    const img = make("img", { alt: caption || `image ${id}`, draggable: "false" });
    const title = tip || caption || "";
    const style = cellStyle(color, model.get("height"));
    const button = make("button", { class: "cell", "data-id": id, title, style, onclick: (e) => clicked(id, e) }, img);
    eye.observe(button);
    return make("figure", {}, button, caption ? make("figcaption", {}, caption) : null);
  }

  const grid = (className, ...columns) =>
    make(
      "div",
      { class: `sides ${className}`, style: `grid-template-columns:repeat(${columns.length},1fr)` },
      ...columns,
    );

  function line(row, number) {
    const go = () => say({ type: "row", row: number });
    const name = row.go
      ? make("button", { title: row.go === true ? "show this one" : row.go, onclick: go }, row.head)
      : make("b", {}, row.head);
    const note = make("span", { class: "soft" }, (row.note || "").replaceAll("\n", " · "));
    const sides = row.sides.map((side) => make("div", { class: "cells" }, ...side.map(cell)));
    return make("section", {}, make("div", { class: "head" }, name, " ", note), grid("", ...sides));
  }

  function table() {
    const columns = model.get("columns");
    const heads = columns.map((name) => make("b", {}, name));
    const head = columns.some((name) => name) ? grid("names", ...heads) : null;
    return make("div", {}, head, ...model.get("rows").map(line));
  }

  function draws() {
    eye.disconnect();
    el.replaceChildren();
    if (model.get("title")) el.append(make("h4", {}, model.get("title")));
    if (!model.get("rows").length) {
      el.append(emptyBox(model.get("empty")));
      return;
    }
    if (model.get("key").length) el.append(legend(model.get("key")));
    el.append(scrollBox(table(), model.get("tall")));
    mark();
  }

  const show = () => redraw(el, model.get("subject"), draws);

  function mark() {
    const on = new Set(model.get("on"));
    const picked = new Set(model.get("picked"));
    for (const button of el.querySelectorAll("button.cell")) {
      const id = Number(button.dataset.id);
      button.classList.toggle("on", on.has(id));
      button.classList.toggle("picked", picked.has(id));
      button.setAttribute("aria-pressed", picked.has(id));
    }
  }

  // An image that was clicked elsewhere, as on a timeline, comes into sight; the page itself stays where it is.
  function follow() {
    mark();
    const [box, cell] = [el.querySelector(".scroll"), el.querySelector("button.cell.on")];
    if (!box || !cell) return;
    const [seen, at] = [box.getBoundingClientRect(), cell.getBoundingClientRect()];
    if (at.bottom < seen.top || at.top > seen.bottom) box.scrollTop += at.top - seen.top - seen.height / 3;
  }

  function walk(event) {
    const cells = [...el.querySelectorAll("button.cell")];
    const next = cellAfter(event.key, cells.indexOf(document.activeElement), cells.length);
    if (next < 0) return;
    cells[next].focus();
    event.preventDefault();
  }

  function framed(cells, event) {
    const how = event.shiftKey || event.ctrlKey || event.metaKey ? "add" : "set";
    say({ type: "pick", images: idsOf(cells), how });
  }

  el.addEventListener("keydown", walk);
  model.on("msg:custom", hear);
  model.on("change:on", follow);
  model.on("change:picked", mark);
  const stopFrame = frameOver(el, framed);
  const stop = whenChanged(model, ["rows", "title", "columns", "key", "empty", "height", "tall", "subject"], show);
  return () => {
    stop();
    stopFrame();
    model.off("msg:custom", hear);
    model.off("change:on", follow);
    model.off("change:picked", mark);
    el.removeEventListener("keydown", walk);
    eye.disconnect();
    thumbnails.forget();
  };
}

export default { render };
