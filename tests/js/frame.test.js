import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { isDark, takesKey, whenInPage } from "../../hil/explore/static/frame.js";

test("JupyterLab's theme comes before the system's", () => {
  assert.equal(isDark("true", true), false);
  assert.equal(isDark("false", false), true);
  assert.equal(isDark(undefined, true), true);
});

test("a key is taken if it is one of the letters, alone, and nobody types", () => {
  assert.equal(takesKey({ key: "m" }, "ms,.", false), true);
  assert.equal(takesKey({ key: "," }, "ms,.", false), true);
  assert.equal(takesKey({ key: "x" }, "ms,.", false), false);
  assert.equal(takesKey({ key: "m" }, "ms,.", true), false);
  assert.equal(takesKey({ key: "m", ctrlKey: true }, "ms,.", false), false);
  assert.equal(takesKey({ key: "s,", metaKey: false }, "ms,.", false), false); // a part of the letters, but not a letter
});

// A page whose changes are announced by hand.
let observers;
beforeEach(() => {
  observers = new Set();
  globalThis.document = {};
  globalThis.MutationObserver = class {
    constructor(act) {
      this.act = act;
    }
    observe() {
      observers.add(this);
    }
    disconnect() {
      observers.delete(this);
    }
  };
});
afterEach(() => {
  delete globalThis.document;
  delete globalThis.MutationObserver;
});

test("waiting for the page ends when the element is there", () => {
  const element = { isConnected: false };
  let calls = 0;
  whenInPage(element, () => calls++);
  for (const observer of observers) observer.act();
  assert.equal(calls, 0);
  element.isConnected = true;
  for (const observer of observers) observer.act();
  assert.equal(calls, 1);
  assert.equal(observers.size, 0);
});

test("an element that is there already waits for nothing; one that goes away stops waiting", () => {
  let calls = 0;
  whenInPage({ isConnected: true }, () => calls++);
  assert.equal(calls, 1);
  assert.equal(observers.size, 0);
  const stop = whenInPage({ isConnected: false }, () => calls++);
  assert.equal(observers.size, 1);
  stop();
  assert.equal(observers.size, 0);
});
