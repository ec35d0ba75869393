import assert from "node:assert/strict";
import { test } from "node:test";
import { extent, knownPoints, legendEntries, nice, scale, ticks, yLabel } from "../../hil/explore/static/curves.js";

test("numbers are as short as they may be", () => {
  const short = { 0: "0", 12: "12", 999: "999", 1234: "1,234", 9999.6: "10,000", 56821: "56.8k", 1000000: "1000k" };
  for (const [value, text] of Object.entries(short)) assert.equal(nice(Number(value)), text);
  assert.equal(nice(1 / 3), "0.333");
  assert.equal(nice(-2500), "-2,500");
  assert.equal(yLabel(1.2345, false), "1.23");
  assert.equal(yLabel(0.0123, true), "0.0123");
});

test("unknown values are left out", () => {
  assert.deepEqual(knownPoints({ x: [1, 2, 3, 4], y: [5, null, Number.NaN, 0] }), [
    [1, 5],
    [4, 0],
  ]);
});

test("axes of shares end at 1, those of counts at an even number above the largest", () => {
  const shares = [
    [1, 0.2],
    [5, 0.7],
  ];
  assert.deepEqual(extent(shares, true), { x0: 1, x1: 5, y0: 0, y1: 1 });
  assert.equal(extent([[1, 10]], false).y1, 12);
  assert.equal(extent([[1, 3]], false).y1, 3.18);
  assert.equal(extent([[1, -0.5]], true).y0, -0.5);
});

test("one point, or zeros alone, still span an axis", () => {
  const { x0, x1, y0, y1 } = extent([[3, 0]], false);
  assert.ok(x1 > x0 && y1 > y0);
});

test("a scale leads from values to pixels, downwards for y", () => {
  const y = scale(0, 10, 136, 8);
  assert.deepEqual([0, 5, 10].map(y), [136, 72, 8]);
  assert.deepEqual(ticks(2, 6), [2, 4, 6]);
});

test("the legend names each line once", () => {
  const visible = { name: "visible", color: "blue", dash: "none" };
  const infrared = { name: "infrared", color: "orange", dash: "6 3" };
  assert.deepEqual(legendEntries([{ lines: [visible, infrared] }, { lines: [visible] }]), [
    ["visible", "blue", "line"],
    ["infrared", "orange", "dash"],
  ]);
});
