// The parts of the page that are text: figures, bars, lists and tables. What is there already is
// changed in place, so that a pointer, a focus or a selection stays where it is.

import { bytes, count, duration, many, mode, percent } from "./format.js";
import { css } from "./colours.js";

/** Sessions that are listed; with more, those that sort first. */
const MOST_ROWS = 200;

/** Makes an element. Text stays text: nothing that the daemon says is ever markup. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Whether whoever looks wants no motion. */
export function reduced() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Sets a text, if it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes `parent` have one child for each item, in order; those of known keys are kept. */
function children(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const name = String(key(item));
    let child = old.get(name);
    old.delete(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
    update(child, item);
  });
  for (const child of old.values()) child.remove();
}

/** Shows figures: [{ what, value, note, colour }]. */
export function figures(list, items) {
  const make = () => el("div", {}, el("dt"), el("dd", {}, "", el("small")));
  children(list, items, (item) => item.what, make, (child, item) => {
    const [dt, dd] = child.children;
    if (!dt.firstChild) {
      if (item.colour) dt.append(swatch(item.colour));
      dt.append(item.what);
    }
    dd.firstChild.data === item.value || (dd.firstChild.data = item.value);
    say(dd.lastChild, item.note ? ` ${item.note}` : "");
  });
}

/** A square of a colour of the style sheet, as "--h1", or of a pixel. */
export function swatch(colour) {
  const square = el("i", { class: "swatch", "aria-hidden": "true" });
  square.style.setProperty("--c", typeof colour === "string" ? `var(${colour})` : css(colour));
  return square;
}

/** Shows parts of a whole: [{ what, bytes, colour }]. */
export function bar(element, parts, whole) {
  const share = (part) => (whole > 0 ? Math.max((100 * part.bytes) / whole, part.bytes > 0 ? 0.4 : 0) : 0);
  children(element, parts, (part) => part.what, () => el("i"), (child, part) => {
    child.style.setProperty("--c", `var(${part.colour})`);
    child.style.width = `${share(part)}%`;
  });
  const said = parts.map((part) => `${part.what} ${bytes(part.bytes)}`).join(", ");
  element.setAttribute("aria-label", `${said} of ${bytes(whole)}`);
}

/** What a pool's memory is used for, as parts of its bar. */
export function parts(pool) {
  const held = pool.leased_bytes + pool.abandoned_bytes;
  const used = Math.min(pool.used_bytes, held);
  return [
    { what: "in exported blocks", bytes: used, colour: "--h1" },
    { what: "leased, not exported", bytes: held - used, colour: "--h5" },
    { what: "free, committed", bytes: pool.free_committed_bytes, colour: "--idle" },
  ];
}

/** The pools, to choose one of. */
export function pools(list, all, chosen, choose) {
  const make = (pool) => {
    const meter = el("div", { class: "bar", role: "img" });
    const button = el("button", { type: "button" }, el("span", { class: "name" }, el("span"), el("span")), meter, el("span", { class: "hint" }));
    button.addEventListener("click", () => choose(pool.identity.name));
    return el("li", {}, button);
  };
  children(list, all, (pool) => pool.identity.id, make, (child, pool) => {
    const button = child.firstChild;
    const [name, meter, hint] = button.children;
    button.setAttribute("aria-pressed", String(pool.identity.name === chosen));
    say(name.firstChild, pool.identity.name);
    say(name.lastChild, pool.identity.destroying ? "being destroyed" : bytes(pool.capacity_bytes));
    bar(meter, parts(pool), pool.capacity_bytes);
    const held = pool.leased_bytes + pool.abandoned_bytes;
    say(hint, `${bytes(held)} leased, ${many(pool.blocks, "block")}, ${many(pool.identity.sessions, "session")}`);
  });
}

/** The figures of the pool that is shown. */
export function poolFigures(list, pool) {
  const { identity } = pool;
  figures(list, [
    { what: "Leased", value: bytes(pool.leased_bytes), note: `of ${bytes(pool.capacity_bytes)}` },
    { what: "Used", value: bytes(pool.used_bytes), note: `asked for ${bytes(pool.requested_bytes)}` },
    { what: "Committed", value: bytes(pool.committed_bytes), note: `tables ${bytes(pool.table_bytes)}` },
    { what: "Blocks", value: count(pool.blocks), note: `kept ${count(pool.kept_blocks)}, pins ${count(pool.pins)}` },
    { what: "Largest free", value: bytes(pool.largest_free_bytes), note: `fragmented ${percent(Math.max(pool.fragmentation, 0))}` },
    { what: "Belongs to", value: `uid ${identity.uid}`, note: `${mode(identity.mode)}, ${identity.backing}` },
  ]);
}

const ARENA_SQUARE = 15;
/** Arenas that have a row. */
const MOST_HELD = 12;

/** The arena pools: a square for each arena, as full as it is, and a row for each that is held. */
export function arenas(parent, all, palette, name) {
  const make = (pool) => {
    const head = el("h3", {}, el("b"), el("span"));
    const body = el("tbody");
    const columns = ["Arena", "Name", "Used", "Held by"].map((text, i) => el("th", { scope: "col", class: i === 2 ? "number" : "" }, text));
    const label = `Arenas of ${pool.identity.name} that are held`;
    const table = el("table", { "aria-label": label }, el("thead", {}, el("tr", {}, ...columns)), body);
    return el("div", { class: "arena-pool" }, head, el("canvas", { role: "img" }), el("div", { class: "table" }, table), el("p", { class: "hint" }));
  };
  children(parent, all, (pool) => pool.identity.id, make, (child, pool) => {
    const [head, canvas, wrap, hint] = child.children;
    say(head.firstChild, pool.identity.name);
    const state = [`${count(pool.free)} of ${many(pool.arenas, "arena")} of ${bytes(pool.arena_bytes)} free`];
    state.push(`${bytes(pool.used_bytes)} used, ${bytes(pool.committed_bytes)} committed`);
    if (pool.waiting > 0) state.push(`${many(pool.waiting, "call waits", "calls wait")}`);
    if (pool.identity.destroying) state.push("being destroyed");
    say(head.lastChild, state.join(" · "));
    drawArenas(canvas, pool, palette);
    wrap.hidden = pool.held.length === 0;
    // Those that several hold are named; they are what one looks for.
    const rows = [...pool.held].sort((a, b) => (a.name === null) - (b.name === null)).slice(0, MOST_HELD);
    const body = wrap.querySelector("tbody");
    children(body, rows, (arena) => arena.index, () => row(4), (tr, arena) => {
      const [index, label, used, holders] = tr.children;
      cell(index, "", `#${arena.index}`);
      index.className = "name";
      cell(label, "name", arena.name ?? "");
      cell(used, "used", `${bytes(arena.used_bytes)}, ${percent(arena.used_bytes / pool.arena_bytes)}`);
      used.className = "number";
      const held = arena.holders.map((holder) => `${name(holder.session, holder)}${holder.writable ? "" : ", reads"}`);
      cell(holders, "held by", held.join("; ") || "somebody");
      holders.className = "faint";
    });
    const held = pool.exclusive + pool.named;
    say(hint, held > rows.length ? `and ${count(held - rows.length)} more` : "");
  });
}

function drawArenas(canvas, pool, palette) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(canvas.clientWidth, 100);
  // Smaller where there are many; of a great many, the first are shown.
  const size = pool.arenas > 4096 ? 4 : pool.arenas > 512 ? 8 : ARENA_SQUARE;
  const gap = size > 8 ? 3 : 1;
  const columns = Math.max(Math.floor(width / (size + gap)), 1);
  const n = Math.min(pool.arenas, columns * 60);
  const height = Math.ceil(n / columns) * (size + gap);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const held = new Map(pool.held.map((arena) => [arena.index, arena]));
  for (let i = 0; i < n; i += 1) {
    const [x, y] = [(i % columns) * (size + gap), Math.floor(i / columns) * (size + gap)];
    const arena = held.get(i);
    context.fillStyle = css(palette.of.free);
    context.fillRect(x, y, size, size);
    if (!arena) continue;
    const colour = arena.holders.length > 0 ? palette.holder(arena.holders[0].session) : palette.of.nobody;
    context.fillStyle = css(colour);
    context.globalAlpha = 0.4;
    context.fillRect(x, y, size, size);
    context.globalAlpha = 1;
    const full = Math.min(arena.used_bytes / pool.arena_bytes, 1) * size;
    context.fillRect(x, y + size - full, size, full);
    if (arena.name !== null && size > 8) {
      // It has a name: a corner of the text's colour.
      context.fillStyle = css(palette.of.text);
      context.fillRect(x + size - 4, y, 4, 4);
    }
  }
  const state = `${pool.free} free, ${pool.exclusive} with one holder, ${pool.named} with a name`;
  canvas.setAttribute("aria-label", `Arenas of ${pool.identity.name}: ${state}`);
}

function row(cells) {
  return el("tr", {}, ...Array.from({ length: cells }, () => el("td")));
}

function cell(td, what, text) {
  if (what && td.dataset.what !== what) td.dataset.what = what;
  say(td, text);
}

const COLUMNS = [
  { key: "label", text: "Session", of: (s) => `${s.label || s.command || "?"} ${s.number}` },
  { key: "command", text: "Command", of: (s) => s.command ?? "" },
  { key: "pid", text: "pid", of: (s) => s.pid, number: true },
  { key: "uid", text: "uid", of: (s) => s.uid, number: true },
  { key: "leased_bytes", text: "Leased", of: (s) => s.leased_bytes, say: bytes, number: true },
  { key: "rpc_bytes", text: "By RPC", of: (s) => s.rpc_bytes, say: bytes, number: true },
  { key: "blocks", text: "Blocks", of: (s) => s.blocks, say: count, number: true },
  { key: "arenas", text: "Arenas", of: (s) => s.arenas, say: count, number: true },
  { key: "pins", text: "Pins", of: (s) => s.pins, say: count, number: true },
  { key: "age_ms", text: "Age", of: (s) => s.age_ms, say: duration, number: true },
];

/** The table of sessions, by bytes at first. `point(number)` tells which row is pointed at. */
export class Sessions {
  constructor(parent, point) {
    this.sort = { key: "leased_bytes", up: false };
    this.all = [];
    this.body = el("tbody");
    this.more = el("p", { class: "hint" });
    this.heads = COLUMNS.map((column) => {
      const button = el("button", { type: "button" }, column.text);
      button.addEventListener("click", () => this.by(column));
      return el("th", { scope: "col", class: column.number ? "number" : "" }, button);
    });
    const table = el("table", { "aria-labelledby": "sessions-title" }, el("thead", {}, el("tr", {}, ...this.heads)), this.body);
    parent.append(table, this.more);
    const of = (event) => event.target.closest("tr")?.dataset.number;
    this.body.addEventListener("pointerover", (event) => point(of(event) === undefined ? null : Number(of(event))));
    this.body.addEventListener("pointerleave", () => point(null));
  }

  by(column) {
    const is_same = this.sort.key === column.key;
    this.sort = { key: column.key, up: is_same ? !this.sort.up : !column.number };
    this.show(this.all, this.palette);
  }

  show(all, palette) {
    this.all = all;
    this.palette = palette;
    const column = COLUMNS.find(({ key }) => key === this.sort.key);
    const sign = this.sort.up ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.serial - b.serial;
    };
    const rows = [...all].sort(compare).slice(0, MOST_ROWS);
    this.heads.forEach((head, i) => {
      if (COLUMNS[i] === column) head.setAttribute("aria-sort", this.sort.up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    const make = (session) => {
      const tr = row(COLUMNS.length);
      tr.dataset.number = session.number;
      tr.firstChild.append(swatch(palette.holder(session.number)), "");
      tr.firstChild.className = "name";
      return tr;
    };
    children(this.body, rows, (session) => session.serial, make, (tr, session) => {
      const [square, text] = tr.firstChild.childNodes;
      square.style.setProperty("--c", css(palette.holder(session.number)));
      const label = `#${session.number} ${session.label || session.command || "?"}`;
      if (text.data !== label) text.data = label;
      COLUMNS.slice(1).forEach((other, i) => {
        const td = tr.children[i + 1];
        const value = other.of(session);
        cell(td, other.text.toLowerCase(), value === 0 && other.key !== "uid" ? "" : (other.say ?? String)(value));
        td.className = other.number ? "number" : "faint";
      });
    });
    say(this.more, all.length > rows.length ? `and ${count(all.length - rows.length)} more` : "");
  }
}
