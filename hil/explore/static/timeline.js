// When pictures were taken: a row a camera, time from left to right, a dot a picture. Places are shares of the width, so words keep their size.
import { draw, legend, lift, make, whenChanged } from "./dom.js";

const ROW = 24; // pixels of a camera's row
const LANE = 6; // pixels between dots that would hide each other
const AXIS = 34; // room for the numbers and the name of the axis

// A share of the width as CSS.
export function across(x) {
  return `${Number((100 * x).toFixed(2))}%`;
}

// Pixels from the top to a dot.
export function down(row, lane) {
  return ROW * (row + 0.5) + LANE * lane;
}

function drawDot(dot, color, pick) {
  const place = { cx: across(dot.x), cy: down(dot.row, dot.lane), r: 4.2, style: `fill:${lift(color)}` };
  const circle = draw("circle", { ...place, tabindex: 0, role: "button", "aria-label": dot.tip, "data-id": dot.image });
  circle.append(draw("title", {}, dot.tip));
  circle.addEventListener("click", () => pick(dot.image));
  circle.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.stopPropagation();
    pick(dot.image);
  });
  return circle;
}

function drawAxis(ticks, name, bottom) {
  const marks = [];
  for (const [x, label] of ticks) {
    const [at, anchor] = [across(x), x < 0.06 ? "start" : x > 0.94 ? "end" : "middle"];
    marks.push(draw("line", { class: "axis", x1: at, x2: at, y1: 0, y2: bottom }));
    marks.push(draw("text", { x: at, y: bottom + 13, "text-anchor": anchor }, label));
  }
  marks.push(draw("text", { x: "50%", y: bottom + AXIS - 6, "text-anchor": "middle" }, name));
  return marks;
}

function drawRows(rows) {
  return rows.map((_, i) => draw("line", { class: "axis", x1: 0, x2: "100%", y1: down(i, 0), y2: down(i, 0) }));
}

function render({ model, el }) {
  el.classList.add("hil", "hil-timeline");

  function mark() {
    const on = new Set(model.get("on"));
    for (const dot of el.querySelectorAll("circle")) dot.classList.toggle("on", on.has(Number(dot.dataset.id)));
  }

  function show() {
    const [rows, colors] = [model.get("rows"), model.get("colors")];
    el.replaceChildren(make("h4", {}, model.get("title")));
    if (!rows.length) return;
    const bottom = ROW * rows.length;
    const pick = (image) => model.send({ type: "pick", image, state: model.get("state") });
    const svg = draw("svg", { width: "100%", height: bottom + AXIS, role: "group", "aria-label": model.get("title") });
    svg.append(...drawAxis(model.get("ticks"), model.get("axis"), bottom), ...drawRows(rows));
    svg.append(...model.get("dots").map((dot) => drawDot(dot, colors[dot.kind], pick)));
    const names = rows.map((name) => make("div", { style: `height:${ROW}px;line-height:${ROW}px` }, name));
    const kinds = Object.entries(colors).map(([name, color]) => [name, lift(color), "dot"]);
    el.append(legend(kinds), make("div", { class: "plane" }, make("div", { class: "soft" }, ...names), svg));
    mark();
  }

  model.on("change:on", mark);
  const stop = whenChanged(model, ["title", "rows", "dots", "ticks", "axis", "colors"], show);
  return () => {
    stop();
    model.off("change:on", mark);
  };
}

export default { render };
