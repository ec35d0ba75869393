// Line charts side by side.
import { draw, emptyBox, legend, lift, make, whenChanged } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 170;
const LEFT = 44; // room for the numbers of the y axis
const RIGHT = WIDTH - 8;
const TOP = 8;
const BOTTOM = HEIGHT - 34; // room for the numbers and the name of the x axis

// A number as short as it may be: 0.333, 12, 1,234, 56.8k.
export function nice(value) {
  const size = Math.abs(value);
  if (size >= 10000) return `${Number((value / 1000).toPrecision(3))}k`;
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

// Points [x, y] of a line, without the unknown ones.
export function knownPoints(line) {
  return line.x.map((x, i) => [x, line.y[i]]).filter(([, y]) => y !== null && Number.isFinite(y));
}

// What the axes span: y from 0 (or below) to 1 for shares, else to a little more than the largest value.
export function extent(points, share) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const x0 = Math.min(...xs);
  const y0 = Math.min(0, ...ys);
  const top = share ? Math.max(1, ...ys) : 1.06 * Math.max(...ys, y0 + 1e-9);
  const y1 = share || top < 4 ? top : 2 * Math.ceil(top / 2);
  return { x0, x1: Math.max(...xs, x0 + 1e-9), y0, y1 };
}

// A function from low..high to from..to.
export function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// First, middle and last value of an axis.
export function ticks(low, high) {
  return [low, (low + high) / 2, high];
}

// The word at a tick of the y axis: a count has at most two decimals.
export function yLabel(value, share) {
  return nice(share ? value : Math.round(value * 100) / 100);
}

// Legend of all panels: each name once.
export function legendEntries(panels) {
  const entries = new Map();
  for (const { name, color, dash } of panels.flatMap((panel) => panel.lines)) {
    entries.set(name, [name, color, dash && dash !== "none" ? "dash" : "line"]);
  }
  return [...entries.values()];
}

function drawAxes(panel, range, x, y) {
  const marks = [];
  for (const value of ticks(range.y0, range.y1)) {
    const at = y(value);
    const label = yLabel(value, panel.share);
    marks.push(draw("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: at, y2: at }));
    marks.push(draw("text", { x: LEFT - 4, y: at + 3, "text-anchor": "end" }, label));
  }
  const anchors = ["start", "middle", "end"];
  ticks(range.x0, range.x1).forEach((value, i) => {
    marks.push(draw("text", { x: x(value), y: BOTTOM + 12, "text-anchor": anchors[i] }, nice(value)));
  });
  const turned = `translate(9 ${BOTTOM / 2}) rotate(-90)`;
  marks.push(draw("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, panel.x));
  marks.push(draw("text", { transform: turned, "text-anchor": "middle" }, panel.y));
  return marks;
}

function drawLine(line, panel, x, y, pick) {
  const points = line.points.map(([px, py]) => `${x(px)},${y(py)}`).join(" ");
  const color = lift(line.color);
  const marks = [draw("polyline", { points, style: `stroke:${color};stroke-dasharray:${line.dash || "none"}` })];
  for (const [px, py] of line.points) {
    const circle = draw("circle", { cx: x(px), cy: y(py), r: 3.2, style: `fill:${color}` });
    circle.append(draw("title", {}, `${line.name}: ${panel.x} ${nice(px)}, ${panel.y} ${nice(py)}`));
    circle.addEventListener("click", () => pick(px));
    marks.push(circle);
  }
  return marks;
}

function drawPanel(panel, pick) {
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": panel.title });
  const figure = make("figure", {}, make("figcaption", {}, panel.title), svg);
  const lines = panel.lines.map((line) => ({ ...line, points: knownPoints(line) }));
  const points = lines.flatMap((line) => line.points);
  if (!points.length) {
    svg.append(draw("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "not known"));
    return figure;
  }
  const range = extent(points, panel.share);
  const x = scale(range.x0, range.x1, LEFT, RIGHT);
  const y = scale(range.y0, range.y1, BOTTOM, TOP);
  svg.append(...drawAxes(panel, range, x, y));
  if (panel.now !== null && panel.now >= range.x0 && panel.now <= range.x1) {
    svg.append(draw("line", { class: "now", x1: x(panel.now), x2: x(panel.now), y1: TOP, y2: BOTTOM }));
  }
  for (const line of lines) svg.append(...drawLine(line, panel, x, y, pick));
  return figure;
}

function render({ model, el }) {
  el.classList.add("hil");

  function show() {
    const panels = model.get("panels");
    el.replaceChildren(make("h4", {}, model.get("title")));
    if (!panels.length) {
      el.append(emptyBox(model.get("empty")));
      return;
    }
    const pick = (x) => model.send({ type: "pick", x });
    const figures = panels.map((panel) => drawPanel(panel, pick));
    el.append(legend(legendEntries(panels)), make("div", { class: "hil-curves" }, ...figures));
  }

  return whenChanged(model, ["title", "panels", "empty"], show);
}

export default { render };
