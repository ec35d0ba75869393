// What the widgets share. `hil.explore.widgets.bundled` puts this file in place of their imports.

// An HTML element. `onclick` is a function; an attribute or a child that is null is left out.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// An SVG element.
export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

// Dark colours would drown in a dark ground: hil.css says by how much they get lighter there.
export function lift(color) {
  return `color-mix(in srgb, ${color}, white var(--lift))`;
}

// CSS of a mark in the legend: "frame", "line", "dash" or "dot". A dot's colour is the map's, lifted in Python.
export function markStyle(color, kind) {
  if (kind === "frame") return `border:3px solid ${lift(color)};border-radius:2px`;
  if (kind === "line") return `width:22px;height:0;border-radius:0;border-top:3px solid ${lift(color)}`;
  if (kind === "dash") return `width:22px;height:0;border-radius:0;border-top:3px dashed ${lift(color)}`;
  return `background:${color}`;
}

// A legend from [label, colour, kind of mark].
export function legend(entries) {
  const parts = entries.map(([label, color, kind]) =>
    make("span", {}, make("i", { style: markStyle(color, kind) }), label),
  );
  return make("div", { class: "hil-key" }, ...parts);
}

// What a widget says where there is nothing to draw.
export function emptyBox(words) {
  return make("div", { class: "empty" }, words);
}

// A box that scrolls when its content is higher than `height` pixels.
export function scrollBox(content, height) {
  return make("div", { class: "scroll", style: `max-height:${height}px` }, content);
}

// Draw again, and stand where one stood, unless it is about something else now.
export function redraw(el, subject, draw) {
  const place = el.dataset.subject === subject ? (el.querySelector(".scroll")?.scrollTop ?? 0) : 0;
  el.dataset.subject = subject;
  draw();
  const box = el.querySelector(".scroll");
  if (box) box.scrollTop = place;
}

// Show now, and once after any number of changes that arrive together. Returns how to stop.
export function whenChanged(model, names, show) {
  let due = false;
  const changed = () => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      show();
    });
  };
  for (const name of names) model.on(`change:${name}`, changed);
  show();
  return () => {
    for (const name of names) model.off(`change:${name}`, changed);
  };
}
