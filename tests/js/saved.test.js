import assert from "node:assert/strict";
import { test } from "node:test";
import { listed, members, nearest, numbers, spot } from "../../hil/explore/static/saved.js";

test("numbers come back as they were written", () => {
  const text = Buffer.from(Int32Array.of(3, -1, 70000).buffer).toString("base64");
  assert.deepEqual([...numbers(text, Int32Array)], [3, -1, 70000]);
});

test("images are grouped by their code", () => {
  assert.deepEqual(
    [...members([2, -1, 2])],
    [
      [2, [0, 2]],
      [-1, [1]],
    ],
  );
});

test("the nearest point counts, and none that is far", () => {
  const at = [
    [0, 0],
    [10, 0],
    [50, 50],
  ];
  assert.equal(
    nearest((i) => at[i], 3, [7, 1]),
    1,
  );
  assert.equal(
    nearest((i) => at[i], 3, [30, 30]),
    -1,
  );
});

test("a photograph's place on its sheet", () => {
  const grid = { across: 10, per: 100, width: 44, height: 96 };
  assert.deepEqual(spot(0, grid), { sheet: 0, x: 0, y: 0 });
  assert.deepEqual(spot(213, grid), { sheet: 2, x: 132, y: 96 });
});

test("identities are found by a part of their name, and ordered", () => {
  const all = [
    { name: "V10", images: 3 },
    { name: "V2", images: 9 },
    { name: "Ada", images: 5 },
  ];
  const names = (word, order) => listed(all, word, order).map((one) => one.name);
  assert.deepEqual(names("", "largest"), ["V2", "Ada", "V10"]);
  assert.deepEqual(names(" v", "name"), ["V2", "V10"]);
  assert.deepEqual(names("bob", "smallest"), []);
});
