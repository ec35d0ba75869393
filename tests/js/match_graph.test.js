import assert from "node:assert/strict";
import { test } from "node:test";
import {
  drawingOrder,
  edgePath,
  edgeWidth,
  graphHeight,
  graphWidth,
  legendEntries,
  nodeHeights,
  pressesButton,
} from "../../hil/explore/static/match_graph.js";

const COLORS = { right: "green", wrong: "purple" };

test("nodes are spread over the height that the longer side needs", () => {
  const height = graphHeight(2, 10);
  assert.equal(height, 206);
  assert.deepEqual(nodeHeights(2, height), [69, 159]);
  assert.equal(nodeHeights(10, height)[0], 33);
  assert.equal(nodeHeights(10, height)[9], 195);
  assert.deepEqual(nodeHeights(0, height), []);
});

test("text keeps its size: the drawing is as wide as its place, within bounds", () => {
  assert.deepEqual([200, 431.6, 1400].map(graphWidth), [300, 432, 620]);
});

test("a refused pair sags, an accepted one does not", () => {
  assert.equal(edgePath(33, 51, true, 460), "M110,33 C230,33 230,51 350,51");
  assert.equal(edgePath(33, 51, false, 460), "M110,33 C230,38 230,56 350,51");
});

test("a curve is as wide as there are samples", () => {
  assert.equal(edgeWidth(12, 12), "7.20");
  assert.equal(edgeWidth(6, 12), "4.20");
});

test("accepted pairs lie over refused ones, narrow ones over wide ones", () => {
  const edges = [
    { accepted: true, n: 2 },
    { accepted: true, n: 5 },
    { accepted: false, n: 1 },
    { accepted: false, n: 9 },
  ];
  assert.deepEqual(
    drawingOrder(edges).map((edge) => edge.n),
    [9, 1, 5, 2],
  );
  assert.equal(edges[0].n, 2); // the widget's own list stays as it is
});

test("the legend names the kinds of pairs that occur, and the widest", () => {
  const edges = [
    { accepted: false, truth: "wrong", n: 3 },
    { accepted: true, truth: "unknown", n: 8 },
    { accepted: true, truth: "right", n: 1 },
    { accepted: true, truth: "right", n: 2 },
  ];
  assert.deepEqual(legendEntries(edges, COLORS), [
    ["accepted, right", "green", "line"],
    ["accepted", "var(--ink)", "line"],
    ["refused, wrong", "purple", "dash"],
    ["line width: 1 to 8 images", "transparent", "dot"],
  ]);
});

test("Enter and space press a curve or a node", () => {
  assert.deepEqual(["Enter", " ", "m", "Tab"].map(pressesButton), [true, true, false, false]);
});
