// Visible clusters on the left, infrared ones on the right, and a curve for each pair between which samples were sent.
import { draw, emptyBox, legend, lift, make, redraw, scrollBox, whenChanged } from "./dom.js";

const NARROW = 300; // pixels below which the graph gets no narrower
const WIDE = 620; // and above which it gets no wider: text has one size
const MARGIN = 110; // for the names beside the nodes
const SCROLLBAR = 18; // room beside the drawing
const TOP = 24; // for the heads above the nodes
const NODE = 18; // height of a node's line

export function graphHeight(left, right) {
  return Math.max(left, right) * NODE + TOP + 2;
}

export function graphWidth(pixels) {
  return Math.round(Math.min(Math.max(pixels, NARROW), WIDE));
}

// Where `count` nodes stand, top to bottom.
export function nodeHeights(count, height) {
  return Array.from({ length: count }, (_, i) => TOP + ((i + 0.5) * (height - TOP - 2)) / count);
}

// A curve between two heights; a refused pair sags, so that it does not hide behind an accepted one.
export function edgePath(y0, y1, accepted, width) {
  const middle = width / 2;
  const sag = accepted ? 0 : 5;
  return `M${MARGIN},${y0} C${middle},${y0 + sag} ${middle},${y1 + sag} ${width - MARGIN},${y1}`;
}

export function edgeWidth(n, most) {
  return (1.2 + (6 * n) / most).toFixed(2);
}

// Accepted pairs are drawn over refused ones, and narrow ones over wide ones.
export function drawingOrder(edges) {
  return [...edges].sort((a, b) => a.accepted - b.accepted || b.n - a.n);
}

export function edgeColor(truth, colors) {
  return truth === "unknown" ? "var(--ink)" : colors[truth];
}

// Legend of the kinds of pairs that occur, and of the widths.
export function legendEntries(edges, colors) {
  const entries = [];
  for (const accepted of [true, false]) {
    for (const truth of ["right", "wrong", "unknown"]) {
      if (!edges.some((edge) => edge.accepted === accepted && edge.truth === truth)) continue;
      const word = accepted ? "accepted" : "refused";
      const label = truth === "unknown" ? word : `${word}, ${truth}`;
      entries.push([label, edgeColor(truth, colors), accepted ? "line" : "dash"]);
    }
  }
  entries.push([`line width: 1 to ${mostSamples(edges)} images`, "transparent", "dot"]);
  return entries;
}

export function mostSamples(edges) {
  return Math.max(...edges.map((edge) => edge.n));
}

export function pressesButton(key) {
  return key === "Enter" || key === " ";
}

// A shape that acts like a button: by click, Enter and space.
function button(shape, label, act) {
  shape.setAttribute("tabindex", 0);
  shape.setAttribute("role", "button");
  shape.setAttribute("aria-label", label);
  shape.addEventListener("click", act);
  shape.addEventListener("keydown", (event) => {
    if (!pressesButton(event.key)) return;
    act();
    event.preventDefault();
  });
  return shape;
}

function drawEdge(edge, y0, y1, most, colors, width) {
  const path = draw("path", {
    d: edgePath(y0, y1, edge.accepted, width),
    style: `stroke:${lift(edgeColor(edge.truth, colors))}`,
    "stroke-width": edgeWidth(edge.n, most),
    "stroke-opacity": edge.accepted ? 0.8 : 0.55,
    "stroke-dasharray": edge.accepted ? "none" : "5 3",
    "data-edge": `${edge.left}-${edge.right}`,
  });
  path.append(draw("title", {}, edge.tip));
  return path;
}

function drawNode(node, x, y, anchor, color) {
  const beside = anchor === "start" ? 10 : -10;
  const group = draw("g", { class: "node" });
  group.append(
    draw("circle", { cx: x, cy: y, r: 5, fill: color }),
    draw("text", { x: x + beside, y: y + 4, "text-anchor": anchor }, node.name),
  );
  return group;
}

function render({ model, el }) {
  el.classList.add("hil", "hil-graph");
  let width = 0; // pixels of the drawing

  const say = (message) => model.send({ ...message, state: model.get("state") });

  function graph(edges, colors) {
    const sides = [
      { name: "visible", nodes: model.get("left"), x: MARGIN, anchor: "end" },
      { name: "infrared", nodes: model.get("right"), x: width - MARGIN, anchor: "start" },
    ];
    const height = graphHeight(sides[0].nodes.length, sides[1].nodes.length);
    const svg = draw("svg", { width, height, role: "group" });
    for (const side of sides) {
      const heights = nodeHeights(side.nodes.length, height);
      side.y = new Map(side.nodes.map((node, i) => [node.id, heights[i]]));
    }
    for (const edge of drawingOrder(edges)) {
      const ends = [sides[0].y.get(edge.left), sides[1].y.get(edge.right)];
      const path = drawEdge(edge, ...ends, mostSamples(edges), colors, width);
      svg.append(button(path, edge.tip, () => say({ type: "edge", left: edge.left, right: edge.right })));
    }
    for (const { name, nodes, x, anchor, y } of sides) {
      const color = colors[name];
      const style = `fill:${color};font-weight:600`;
      svg.append(draw("text", { x, y: 12, "text-anchor": anchor, style }, `${name} clusters`));
      for (const node of nodes) {
        const group = drawNode(node, x, y.get(node.id), anchor, color);
        svg.append(button(group, node.name, () => say({ type: "node", id: node.id })));
      }
    }
    return svg;
  }

  function draws() {
    const edges = model.get("edges");
    const colors = model.get("colors");
    el.replaceChildren(make("h4", {}, model.get("title")));
    if (!edges.length) {
      el.append(emptyBox(model.get("empty")));
      return;
    }
    el.append(legend(legendEntries(edges, colors)), scrollBox(graph(edges, colors), model.get("tall")));
    mark();
  }

  function show() {
    width = graphWidth(el.clientWidth - SCROLLBAR);
    redraw(el, model.get("subject"), draws);
  }

  function mark() {
    const chosen = model.get("chosen").join("-");
    for (const path of el.querySelectorAll("path")) path.classList.toggle("on", path.dataset.edge === chosen);
  }

  const size = new ResizeObserver(() => {
    if (graphWidth(el.clientWidth - SCROLLBAR) !== width) show();
  });
  size.observe(el);
  model.on("change:chosen", mark);
  const stop = whenChanged(model, ["title", "left", "right", "edges", "empty", "tall", "subject"], show);
  return () => {
    stop();
    size.disconnect();
    model.off("change:chosen", mark);
  };
}

export default { render };
