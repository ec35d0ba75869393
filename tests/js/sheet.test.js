import assert from "node:assert/strict";
import { test } from "node:test";
import { between, boxOf, cellAfter, cellStyle, handfuls, overlap, Thumbnails } from "../../hil/explore/static/sheet.js";

test("questions are cut into handfuls", () => {
  assert.deepEqual(handfuls([1, 2, 3, 4, 5], 2), [[1, 2], [3, 4], [5]]);
  assert.deepEqual(handfuls([]), []);
  assert.deepEqual(
    handfuls(Array(130).fill(0)).map((ids) => ids.length),
    [64, 64, 2],
  );
});

test("arrow keys walk from cell to cell and stop at both ends", () => {
  assert.equal(cellAfter("ArrowRight", 0, 3), 1);
  assert.equal(cellAfter("ArrowLeft", 2, 3), 1);
  assert.equal(cellAfter("ArrowLeft", 0, 3), -1);
  assert.equal(cellAfter("ArrowRight", 2, 3), -1);
  assert.equal(cellAfter("ArrowRight", -1, 3), -1); // no cell has the focus
  assert.equal(cellAfter("ArrowDown", 1, 3), -1);
});

test("shift takes all from the last click to this one, in the order that is shown", () => {
  const shown = [7, 3, 9, 1, 5];
  assert.deepEqual(between(shown, 3, 1), [3, 9, 1]);
  assert.deepEqual(between(shown, 1, 3), [3, 9, 1]); // backwards too
  assert.deepEqual(between(shown, null, 9), [9]); // nothing was clicked before
  assert.deepEqual(between(shown, 42, 9), [9]); // or what was clicked is not shown any more
});

test("a frame may be drawn from any corner, and touches what it overlaps", () => {
  const box = boxOf([50, 10], [10, 40]);
  assert.deepEqual(box, { left: 10, right: 50, top: 10, bottom: 40 });
  assert.ok(overlap(box, { left: 40, right: 90, top: 30, bottom: 60 }));
  assert.ok(!overlap(box, { left: 51, right: 90, top: 30, bottom: 60 }));
  assert.ok(!overlap(box, { left: 40, right: 90, top: 41, bottom: 60 }));
});

test("a cell is as high as its thumbnail and its border", () => {
  assert.match(cellStyle("#0072B2", 84), /#0072B2.*;height:90px;width:44px$/);
});

test("a thumbnail is asked for once, together with others, and kept", () => {
  const asked = [];
  const timers = [];
  const thumbnails = new Thumbnails(
    (ids) => asked.push(ids),
    (work) => timers.push(work),
  );
  const [a, again, b, late] = [{}, {}, {}, {}];
  thumbnails.show(7, a);
  thumbnails.show(7, again);
  thumbnails.show(8, b);
  assert.equal(timers.length, 1);
  assert.deepEqual(asked, []);
  timers.pop()();
  assert.deepEqual(asked, [[7, 8]]);

  thumbnails.show(8, {}); // already on its way
  assert.equal(timers.length, 0);
  thumbnails.arrived([7], [new Uint8Array([1])]);
  assert.match(a.src, /^blob:/);
  assert.equal(again.src, a.src);
  assert.equal(b.src, undefined);
  thumbnails.show(7, late); // is there
  assert.equal(late.src, a.src);
  assert.equal(timers.length, 0);

  thumbnails.show(9, {});
  timers.pop()();
  assert.deepEqual(asked, [[7, 8], [9]]);
  thumbnails.forget();
});
