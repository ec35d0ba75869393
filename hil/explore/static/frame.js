// The line above everything. It knows the theme and, in the application, hears the keys.
import { legend, make, whenChanged } from "./dom.js";

// JupyterLab says "true" or "false" on its page; elsewhere the system's preference counts.
export function isDark(jupyterSaysLight, systemIsDark) {
  return jupyterSaysLight ? jupyterSaysLight === "false" : systemIsDark;
}

// Whether a key is meant for the explorer: one of its letters, alone, and not while somebody types.
export function takesKey(event, letters, typing) {
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return false;
  return event.key.length === 1 && letters.includes(event.key);
}

// Act once the element stands in the page: now, or when it gets there. Returns how to stop waiting.
export function whenInPage(element, act) {
  const watch = new MutationObserver(look);
  function look() {
    if (!element.isConnected) return;
    watch.disconnect();
    act();
  }
  watch.observe(document, { childList: true, subtree: true });
  look();
  return () => watch.disconnect();
}

function render({ model, el }) {
  el.classList.add("hil");
  let app = null; // the box around the frame, whose keys are heard

  function tellTheme() {
    const dark = isDark(document.body.dataset.jpThemeLight, matchMedia("(prefers-color-scheme: dark)").matches);
    if (dark === model.get("dark")) return;
    model.set("dark", dark);
    model.save_changes();
  }

  function hear(event) {
    const typing = event.target.closest("input, textarea, select, [contenteditable=true]");
    if (!takesKey(event, model.get("letters"), typing)) return;
    model.send({ type: "key", key: event.key });
    event.preventDefault();
    event.stopPropagation();
  }

  function listen() {
    app = el.parentElement;
    app.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves keys alone that are pressed in here
    app.tabIndex = Math.max(app.tabIndex, 0);
    app.addEventListener("keydown", hear);
  }

  function show() {
    const line = make("div", { class: "hil-frame" });
    if (model.get("title")) line.append(make("h3", {}, model.get("title")));
    if (model.get("note")) line.append(make("span", { class: "note" }, model.get("note")));
    if (model.get("warn")) line.append(make("span", { class: "warn", role: "alert" }, model.get("warn")));
    el.replaceChildren(line);
    if (model.get("key").length) el.append(legend(model.get("key")));
  }

  const watch = new MutationObserver(tellTheme);
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  tellTheme();
  const stopWaiting = model.get("letters") ? whenInPage(el, listen) : () => {};
  const stopShowing = whenChanged(model, ["title", "note", "warn", "key"], show);
  return () => {
    stopShowing();
    stopWaiting();
    watch.disconnect();
    app?.removeEventListener("keydown", hear);
  };
}

export default { render };
