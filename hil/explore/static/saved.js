// The page that `hil.explore.saved.save_page` writes: map, identities, photographs and matches, to be read only.
import { lift, make } from "./dom.js";

const FIRST = 6; // photographs of a side before somebody asks for all
const REACH = 12; // pixels within which a point is under the pointer
const ZOOM = 1.2; // of one turn of the wheel

// Numbers that Python wrote as base64.
export function numbers(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

// Images of each code; what has no code (-1) is under -1.
export function members(codes) {
  const found = new Map();
  codes.forEach((code, i) => {
    if (!found.has(code)) found.set(code, []);
    found.get(code).push(i);
  });
  return found;
}

// The point nearest to a place on the canvas, -1 where none is near. `place` turns an image's number into [x, y].
export function nearest(place, n, [x, y], reach = REACH) {
  let [best, least] = [-1, reach * reach];
  for (let i = 0; i < n; i++) {
    const [px, py] = place(i);
    const away = (px - x) ** 2 + (py - y) ** 2;
    if (away < least) [best, least] = [i, away];
  }
  return best;
}

// Where the photograph of image i is: which sheet, and its place there in pixels.
export function spot(i, { across, per, width, height }) {
  const k = i % per;
  return { sheet: Math.floor(i / per), x: (k % across) * width, y: Math.floor(k / across) * height };
}

// Identities in an order, those whose name holds a word.
export function listed(identities, word, order) {
  const orders = {
    largest: (a, b) => b.images - a.images,
    smallest: (a, b) => a.images - b.images,
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  };
  const kept = identities.filter((one) => one.name.toLowerCase().includes(word.trim().toLowerCase()));
  return kept.sort(orders[order]);
}

class Page {
  constructor(data, root) {
    Object.assign(this, data);
    this.xy = numbers(data.xy, Uint16Array);
    this.identity = numbers(data.identity, Int32Array);
    this.cluster = numbers(data.cluster, Int32Array);
    this.infrared = numbers(data.infrared, Uint8Array);
    this.order = numbers(data.order, Int32Array); // in which points are drawn
    this.of = members(this.identity);
    this.ofCluster = members(this.cluster);
    this.open = null; // Set of images that are shown on the map
    this.view = { x: 0, y: 0, zoom: 1 };
    this.sheets = new Map();
    this.eye = new IntersectionObserver((seen) => this.seen(seen), { rootMargin: "300px" });
    this.build(root);
    this.show("identities");
  }

  // Photographs -------------------------------------------------------------------------------------------------------

  sheet(number) {
    if (!this.sheets.has(number)) {
      const text = document.getElementById(`sheet${number}`).textContent;
      this.sheets.set(number, `url("data:image/${this.grid.kind};base64,${text}")`);
    }
    return this.sheets.get(number);
  }

  photo(i) {
    const color = lift(this.colors[this.infrared[i] ? "infrared" : "visible"]);
    const { width, height } = this.grid;
    const style = `width:${width}px;height:${height}px;border-color:${color}`;
    return make("div", {
      class: "photo",
      role: "img",
      "data-id": i,
      title: this.about(i),
      "aria-label": this.about(i),
      style,
    });
  }

  about(i) {
    return [this.paths[i], this.name(this.identity[i]), this.cameras[i]].filter((word) => word).join(", ");
  }

  name(code) {
    return code < 0 ? "no identity" : this.names[code];
  }

  develop(photo) {
    const at = spot(Number(photo.dataset.id), this.grid);
    photo.style.backgroundImage = this.sheet(at.sheet);
    photo.style.backgroundPosition = `-${at.x}px -${at.y}px`;
  }

  seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.eye.unobserve(target);
      if (target.classList.contains("photo")) this.develop(target);
      else target.fill();
    }
  }

  // Lists -------------------------------------------------------------------------------------------------------------

  // A section that is filled when it comes into view.
  section(title, groups, onOpen) {
    const head = make("h2", {}, make("button", { onclick: onOpen, title: "show on the map" }, title));
    const section = make("section", {}, head);
    section.fill = () => section.append(this.sides(groups, FIRST));
    this.eye.observe(section);
    return section;
  }

  sides(groups, most) {
    const cells = groups.map((images) =>
      make("div", { class: "cells" }, ...images.slice(0, most).map((i) => this.photo(i))),
    );
    const sides = make("div", { class: "sides" }, ...cells);
    const hidden = groups.reduce((sum, images) => sum + Math.max(images.length - most, 0), 0);
    const box = make("div", {}, sides);
    if (hidden) {
      const all = () => box.replaceWith(this.sides(groups, Number.POSITIVE_INFINITY));
      box.append(make("button", { onclick: all }, `${hidden.toLocaleString("en")} more`));
    }
    for (const photo of box.querySelectorAll(".photo")) this.eye.observe(photo);
    return box;
  }

  parts(images) {
    return [images.filter((i) => !this.infrared[i]), images.filter((i) => this.infrared[i])];
  }

  identitySection(one) {
    const groups = this.parts(this.of.get(one.code));
    const words = `${one.name}: ${groups[0].length} visible, ${groups[1].length} infrared`;
    const section = this.section(words, groups, () => this.choose(this.of.get(one.code), section));
    section.dataset.code = one.code;
    return section;
  }

  matchSection({ left, right, accepted, n, cosine }) {
    const groups = [this.ofCluster.get(left) ?? [], this.ofCluster.get(right) ?? []];
    const verdict = `${accepted.toLocaleString("en")} of ${n.toLocaleString("en")} images accepted`;
    const words = `${this.names[left]} – ${this.names[right]}: ${verdict}, cosine ${cosine.toFixed(2)}`;
    const section = this.section(words, groups, () => this.choose(groups.flat(), section));
    return section;
  }

  show(tab) {
    this.tab = tab;
    for (const button of this.tabs.children) button.setAttribute("aria-selected", button.dataset.tab === tab);
    this.eye.disconnect();
    const identities = tab === "identities";
    this.tools.hidden = !identities;
    const rows = identities ? listed(this.identities, this.find.value, this.sort.value) : this.matches;
    const make1 = (row) => (identities ? this.identitySection(row) : this.matchSection(row));
    const none = identities ? "no identity is called so" : "there are no matches in this epoch";
    this.list.replaceChildren(...(rows.length ? rows.map(make1) : [make("p", { class: "soft" }, none)]));
  }

  choose(images, section) {
    for (const other of this.list.querySelectorAll(".open")) other.classList.remove("open");
    section?.classList.add("open");
    this.open = images.length ? new Set(images) : null;
    this.draw();
  }

  // The map -----------------------------------------------------------------------------------------------------------

  place(i) {
    const { width, height } = this.canvas;
    const size = Math.min(width, height) * this.view.zoom;
    const at = (value, middle, moved) => middle + (value / 65535 - 0.5) * size + moved;
    return [at(this.xy[2 * i], width / 2, this.view.x), at(65535 - this.xy[2 * i + 1], height / 2, this.view.y)];
  }

  color(i) {
    if (this.paint.value === "modality") return this.colors[this.infrared[i] ? "infrared" : "visible"];
    if (this.identity[i] < 0) return this.colors.outlier;
    return this.palette[this.identity[i] % this.palette.length];
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    const radius = Math.min(Math.max(110 / Math.sqrt(this.n), 1.5), 5) * ratio;
    const dot = (i, alpha, r) => {
      const [x, y] = this.place(i);
      pen.globalAlpha = alpha;
      pen.fillStyle = this.color(i);
      pen.beginPath();
      pen.arc(x, y, r, 0, 7);
      pen.fill();
    };
    for (const i of this.order) if (!this.open?.has(i)) dot(i, this.open ? 0.15 : 0.75, radius);
    pen.strokeStyle = getComputedStyle(document.body).color;
    for (const i of this.open ?? []) {
      dot(i, 1, radius * 1.6);
      pen.stroke();
    }
  }

  pointer(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  under(event) {
    return nearest((i) => this.place(i), this.n, this.pointer(event), REACH * (window.devicePixelRatio || 1));
  }

  hover(event) {
    if (event.buttons) {
      const ratio = window.devicePixelRatio || 1;
      this.view.x += event.movementX * ratio;
      this.view.y += event.movementY * ratio;
      this.moved += Math.abs(event.movementX) + Math.abs(event.movementY);
      this.draw();
      return;
    }
    const i = this.under(event);
    this.card.hidden = i < 0;
    if (i < 0) return;
    const photo = this.photo(i);
    this.develop(photo);
    this.card.replaceChildren(photo, make("div", {}, this.about(i)));
    const left = Math.min(event.clientX + 14, window.innerWidth - 240);
    this.card.setAttribute("style", `left:${left}px;top:${event.clientY + 14}px`);
  }

  click(event) {
    if (this.moved > 4) return;
    const i = this.under(event);
    if (i < 0) {
      this.choose([], null);
      return;
    }
    this.find.value = this.identity[i] < 0 ? "" : this.find.value;
    this.show("identities");
    const section = this.list.querySelector(`[data-code="${this.identity[i]}"]`);
    this.choose(this.identity[i] < 0 ? [i] : this.of.get(this.identity[i]), section);
    section?.scrollIntoView({ block: "center" });
  }

  wheel(event) {
    event.preventDefault();
    const [x, y] = this.pointer(event);
    const by = event.deltaY < 0 ? ZOOM : 1 / ZOOM;
    const { width, height } = this.canvas;
    this.view.x = x - width / 2 - (x - width / 2 - this.view.x) * by;
    this.view.y = y - height / 2 - (y - height / 2 - this.view.y) * by;
    this.view.zoom *= by;
    this.draw();
  }

  build(root) {
    const choice = (values, act) => {
      const menu = make(
        "select",
        {},
        ...Object.entries(values).map(([value, words]) => make("option", { value }, words)),
      );
      menu.addEventListener("change", act);
      return menu;
    };
    const tab = (name, words) => make("button", { "data-tab": name, onclick: () => this.show(name) }, words);
    this.canvas = make("canvas", { role: "img", "aria-label": `map of ${this.n} images` });
    this.paint = choice({ identity: "identity", modality: "modality" }, () => this.draw());
    this.find = make("input", { type: "search", placeholder: "find an identity" });
    this.find.addEventListener("input", () => this.show("identities"));
    this.sort = choice({ largest: "largest first", smallest: "smallest first", name: "by name" }, () =>
      this.show("identities"),
    );
    this.tools = make("span", { class: "bar" }, this.find, this.sort);
    this.tabs = make("span", {}, tab("identities", "Identities"), tab("matches", "Matches"));
    this.list = make("div", {});
    this.card = make("div", { class: "card", hidden: "" });
    this.identities = this.names
      .map((name, code) => ({ name, code, images: this.of.get(code)?.length ?? 0 }))
      .filter((one) => one.images);
    const label = make("label", {}, "colour by ", this.paint);
    const help = make("span", { class: "soft" }, "wheel: closer; drag: move; click a point: its identity");
    const map = make("div", { class: "map" }, make("div", { class: "bar" }, label, help), this.canvas);
    const lists = make("div", { class: "lists" }, make("div", { class: "bar" }, this.tabs, this.tools), this.list);
    root.append(
      make("h1", {}, this.title),
      make("div", { class: "soft" }, this.note),
      make("div", { class: "beside" }, map, lists),
      this.card,
    );
    this.canvas.addEventListener("pointerdown", () => {
      this.moved = 0;
    });
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => {
      this.card.hidden = true;
    });
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }
}

if (globalThis.document?.getElementById("data")) {
  new Page(JSON.parse(document.getElementById("data").textContent), document.getElementById("page"));
}
