import assert from "node:assert/strict";
import { test } from "node:test";
import { across, down } from "../../hil/explore/static/timeline.js";

test("a share of the width is CSS with at most two decimals", () => {
  assert.deepEqual([0, 1 / 3, 1].map(across), ["0%", "33.33%", "100%"]);
});

test("dots of neighbouring rows never meet, in whatever lane they are", () => {
  assert.ok(down(1, -1) - down(0, 1) > 2 * 4.2);
  assert.ok(down(0, -1) > 4.2);
});
