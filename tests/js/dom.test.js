import assert from "node:assert/strict";
import { test } from "node:test";
import { lift, markStyle, whenChanged } from "../../hil/explore/static/dom.js";

test("a legend's mark looks like what it explains", () => {
  assert.match(markStyle("#123456", "frame"), /^border:3px solid color-mix\(in srgb, #123456, white var\(--lift\)\)/);
  assert.match(markStyle("#123456", "line"), /border-top:3px solid/);
  assert.match(markStyle("#123456", "dash"), /border-top:3px dashed/);
  assert.equal(markStyle("#123456", "dot"), "background:#123456");
  assert.equal(lift("var(--ink)"), "color-mix(in srgb, var(--ink), white var(--lift))");
});

test("changes that arrive together are shown once, and none after the end", async () => {
  const listeners = new Map();
  const model = { on: (name, act) => listeners.set(name, act), off: (name) => listeners.delete(name) };
  let shown = 0;
  const stop = whenChanged(model, ["title", "rows"], () => shown++);
  assert.equal(shown, 1);
  listeners.get("change:title")();
  listeners.get("change:rows")();
  await Promise.resolve();
  assert.equal(shown, 2);
  listeners.get("change:rows")();
  await Promise.resolve();
  assert.equal(shown, 3);
  stop();
  assert.equal(listeners.size, 0);
});
