// Rows of thumbnails. A thumbnail is asked for when it comes into view.
import { emptyBox, legend, lift, make, scrollBox, whenChanged } from "./dom.js";

const HANDFUL = 64; // thumbnails in one question to the kernel
const PAUSE = 20; // milliseconds in which questions are collected
const BORDER = 3; // pixels around a thumbnail
const SHAPE = 0.45; // width of a thumbnail over its height

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

function render({ model, el }) {
  el.classList.add("hil", "hil-sheet");
  const thumbnails = new Thumbnails((ids) => model.send({ type: "need", ids }));
  const eye = new IntersectionObserver(seen, { rootMargin: "150px" });

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

  function cell([id, color, caption, tip]) {
    const img = make("img", { alt: caption || `image ${id}`, draggable: "false" });
    const click = (event) =>
      model.send({ type: "click", image: id, add: event.shiftKey || event.ctrlKey || event.metaKey });
    const title = tip || caption || "";
    const style = cellStyle(color, model.get("height"));
    const button = make("button", { class: "cell", "data-id": id, title, style, onclick: click }, img);
    eye.observe(button);
    return make("figure", {}, button, caption ? make("figcaption", {}, caption) : null);
  }

  function line(row, number) {
    const go = () => model.send({ type: "row", row: number });
    const name = row.go ? make("button", { title: "show this one", onclick: go }, row.head) : make("b", {}, row.head);
    const note = make("div", { class: "soft" }, row.note || "");
    const sides = row.sides.map((side) => make("td", {}, make("div", { class: "cells" }, ...side.map(cell))));
    return make("tr", {}, make("th", { class: "head" }, name, note), ...sides);
  }

  function table() {
    const columns = model.get("columns");
    const heads = ["", ...columns].map((name) => make("th", { class: "side" }, name));
    const head = columns.some((name) => name) ? make("thead", {}, make("tr", {}, ...heads)) : null;
    return make("table", {}, head, make("tbody", {}, ...model.get("rows").map(line)));
  }

  function show() {
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

  function mark() {
    const on = new Set(model.get("on"));
    for (const button of el.querySelectorAll("button.cell")) {
      button.classList.toggle("on", on.has(Number(button.dataset.id)));
    }
  }

  function walk(event) {
    const cells = [...el.querySelectorAll("button.cell")];
    const next = cellAfter(event.key, cells.indexOf(document.activeElement), cells.length);
    if (next < 0) return;
    cells[next].focus();
    event.preventDefault();
  }

  el.addEventListener("keydown", walk);
  model.on("msg:custom", hear);
  model.on("change:on", mark);
  const stop = whenChanged(model, ["rows", "title", "columns", "key", "empty", "height", "tall"], show);
  return () => {
    stop();
    model.off("msg:custom", hear);
    model.off("change:on", mark);
    el.removeEventListener("keydown", walk);
    eye.disconnect();
    thumbnails.forget();
  };
}

export default { render };
