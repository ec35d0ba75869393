// The line above everything. It knows the theme and, in the application, hears the keys.
import { legend, make, whenChanged } from "./dom.js";

// JupyterLab says "true" or "false" on its page; elsewhere the system's preference counts.
export function isDark(jupyterSaysLight, systemIsDark) {
  return jupyterSaysLight ? jupyterSaysLight === "false" : systemIsDark;
}

// Whether a key is meant for the explorer: one of its letters, alone, and not while somebody types.
export function takesKey(event, letters, typing) {
  if (typing || withHand(event)) return false;
  return event.key.length === 1 && letters.includes(event.key);
}

// Ctrl+S and its like belong to JupyterLab and the browser.
export function withHand(event) {
  return event.ctrlKey || event.metaKey || event.altKey;
}

// Pictures large and side by side over the page, until a key or a click.
export function largePictures(captions, addresses, close) {
  const figures = addresses.map((src, i) =>
    make("figure", {}, make("img", { src, alt: captions[i] }), make("figcaption", {}, captions[i])),
  );
  const dialog = make("dialog", { onclick: close }, make("div", {}, ...figures));
  dialog.classList.add("hil", "hil-large");
  return dialog;
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
    if (!app?.contains(event.target)) return;
    // JupyterLab leaves keys alone that are pressed in here, but for those that are its own
    if (withHand(event)) delete app.dataset.lmSuppressShortcuts;
    else app.dataset.lmSuppressShortcuts = "true";
    const typing = event.target.closest("input, textarea, select, [contenteditable=true]");
    if (!takesKey(event, model.get("letters"), typing)) return;
    // a step to another epoch means the same whatever is being drawn; all else waits for what it is about
    const now = !model.get("busy") || ",.".includes(event.key);
    if (now) model.send({ type: "key", key: event.key, state: model.get("state") });
    event.preventDefault();
    event.stopPropagation();
  }

  function listen() {
    app = el.parentElement;
    app.dataset.lmSuppressShortcuts = "true";
    app.tabIndex = Math.max(app.tabIndex, 0);
    window.addEventListener("keydown", hear, true); // before JupyterLab, which hears keys on the document
    veil();
  }

  function veil() {
    app?.classList.toggle("hil-busy", model.get("busy") !== "");
    if (app) app.dataset.busy = model.get("busy");
  }

  function enlarge(message, buffers) {
    if (message.type !== "large") return;
    const addresses = buffers.map((bytes) => URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })));
    const dialog = largePictures(message.captions, addresses, () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      for (const address of addresses) URL.revokeObjectURL(address);
      app?.focus({ preventScroll: true });
    });
    el.append(dialog);
    dialog.showModal();
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
  model.on("change:busy", veil);
  model.on("msg:custom", enlarge);
  const stopShowing = whenChanged(model, ["title", "note", "warn", "key"], show);
  return () => {
    stopShowing();
    stopWaiting();
    watch.disconnect();
    model.off("change:busy", veil);
    model.off("msg:custom", enlarge);
    window.removeEventListener("keydown", hear, true);
  };
}

export default { render };
