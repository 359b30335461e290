// The memory of one pool: a square for each page, row by row, and in it the exported blocks, where
// they lie. Only squares that changed are drawn again, and only those that are in view.

import { bytes, count, duration, hex, many } from "./format.js";
import { css, DAEMON, mix, NOBODY } from "./colours.js";
import { el, reduced } from "./tables.js";

/** The most pages that are drawn: 256 GiB. */
const MOST_PAGES = 1 << 22;
const LARGEST_SQUARE = 88;
const SMALLEST_SQUARE = 3;
const FLASH_MS = 700;
const MOST_FLASHES = 4096;
/** What a page is that is held but has no exported block there: its holder's colour, faintly. */
const FAINT = 0.42;

const RUNS = ["free", "free_committed", "leased", "daemon", "abandoned", "retired"];
const SAID = {
  free: "free, no memory behind it",
  free_committed: "free, its memory still there",
  leased: "leased",
  daemon: "the daemon's, for blocks allocated by RPC",
  abandoned: "abandoned: its lessee has gone, blocks of it live",
  retired: "retired: never granted again",
};

export class MemoryMap {
  /** `find(id)` finds an element; `person(session)` tells who a session is. */
  constructor(find, palette, person) {
    this.frame = find("map-frame");
    this.spacer = find("map-spacer");
    this.stage = find("map-stage");
    this.canvas = find("map-canvas");
    this.overlay = find("map-overlay");
    this.tip = find("map-tip");
    this.said = find("map-said");
    this.legend = find("map-legend");
    this.note = find("map-note");
    this.palette = palette;
    this.person = person;
    this.context = this.canvas.getContext("2d");
    this.over = this.overlay.getContext("2d");
    this.mode = "holder";
    this.zoomed = 0;
    this.map = null;
    this.shown = null; // session whose pages stand out
    this.cursor = null; // { page, block, byPointer }
    this.flashes = new Map();
    this.draws = [];
    this.frame.addEventListener("scroll", () => this.paint(true));
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => this.cursor?.byPointer && this.leave());
    this.frame.addEventListener("keydown", (event) => this.key(event));
    this.frame.addEventListener("focus", () => this.focused());
    this.frame.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.layOut()).observe(this.frame.parentElement);
  }

  /** Shows a map, as /api/v1/pools/NAME/map has it; null for none. */
  set(map) {
    const is_same = map !== null && this.map?.pool === map.pool;
    const pages = this.pages;
    if (is_same && this.cursor && this.cursor.block !== null) {
      // The block at the cursor has another place in the list now, or is gone.
      const offset = this.map.blocks.offset_bytes[this.cursor.block];
      const block = lastUpTo(map.blocks.offset_bytes, offset);
      this.cursor.block = map.blocks.offset_bytes[block] === offset ? block : null;
    }
    this.map = map;
    this.frame.hidden = map === null;
    if (map === null) return this.leave();
    const { runs } = map;
    let last = 0;
    runs.state.forEach((state, i) => {
      if (state > 1) last = runs.first_page[i] + runs.pages[i];
    });
    const capacity = Math.ceil(map.capacity_bytes / map.page_bytes);
    this.pages = Math.min(Math.max(capacity, last), map.total_pages, MOST_PAGES);
    this.received = performance.now();
    if (!is_same) {
      this.zoomed = 0;
      this.frame.scrollTop = 0;
      this.leave();
    }
    if (is_same && pages === this.pages) this.paint(false, true);
    else this.layOut();
    if (this.cursor) this.tell(false);
    this.describe();
  }

  colourBy(mode) {
    this.mode = mode;
    this.paint(true);
    this.describe();
  }

  /** Lets the pages of one session stand out; null for none. */
  highlight(session) {
    if (session === this.shown) return;
    this.shown = session;
    this.paint(true);
  }

  /** The theme, or who has which colour, has changed. */
  recolour() {
    this.paint(true);
    this.describe();
  }

  zoom(by) {
    const page = this.cursor?.page ?? this.first ?? 0;
    this.zoomed = Math.min(Math.max(this.zoomed + by, -4), 12);
    this.layOut();
    this.show(page);
  }

  /** Chooses how large a square is, so that all of them are seen if that can be. */
  layOut() {
    if (!this.map || this.frame.hidden) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(Math.floor(this.frame.clientWidth * ratio), 64);
    const height = Math.floor(this.mostHeight() * ratio);
    const columns = (square) => {
      const fit = Math.max(Math.floor(width / square), 1);
      // A row of whole MiB is easier to count with.
      const step = fit >= 16 ? 16 : fit >= 4 ? 4 : 1;
      return fit - (fit % step);
    };
    let square = Math.round(LARGEST_SQUARE * ratio);
    const least = Math.round(SMALLEST_SQUARE * ratio);
    while (square > least && Math.ceil(this.pages / columns(square)) * square > height) square -= 1;
    square = Math.round(Math.max(square * 1.35 ** this.zoomed, least));
    square = Math.min(square, Math.floor(width / 2));
    this.columns = columns(square);
    const stretched = Math.floor(width / this.columns);
    const rows = Math.ceil(this.pages / this.columns);
    if (this.zoomed !== 0 || rows * stretched <= height || rows * square > height) square = stretched;
    Object.assign(this, { ratio, square, rows, gap: square >= 6 * ratio ? Math.round(ratio) : 0 });
    this.side = this.square - this.gap;
    const view = Math.min(rows * square, height);
    const lengths = { width: this.columns * square, height: view };
    for (const canvas of [this.canvas, this.overlay]) {
      Object.assign(canvas, lengths);
      canvas.style.width = `${lengths.width / ratio}px`;
      canvas.style.height = `${lengths.height / ratio}px`;
    }
    this.stage.style.height = `${view / ratio}px`;
    this.spacer.style.height = `${(rows * square) / ratio}px`;
    this.image = this.context.createImageData(lengths.width, lengths.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.drawn = null;
    this.paint(true);
    this.describe();
  }

  mostHeight() {
    return parseFloat(getComputedStyle(this.frame).maxHeight) || 480;
  }

  /** Draws in the next frame: everything, or what differs from what was drawn. */
  paint(whole, flash = false) {
    this.whole ||= whole;
    this.flash = flash && !whole;
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  draw() {
    if (!this.map || !this.image) return;
    const begun = performance.now();
    const { map, square, side, columns, pixels } = this;
    const stride = this.image.width;
    const top = Math.round(this.frame.scrollTop * this.ratio);
    const firstRow = Math.floor(top / square);
    const shift = firstRow * square - top; // the first row may be cut
    const nRows = Math.min(Math.ceil((this.image.height - shift) / square), this.rows - firstRow);
    const first = firstRow * columns;
    const end = Math.min(first + nRows * columns, this.pages);
    const is_fresh = this.whole || this.drawn?.top !== top;
    if (is_fresh) {
      const marks = () => new Uint32Array(Math.max(end - first, 0)).fill(0xffffffff);
      this.drawn = { top, looks: marks(), shapes: marks() };
      pixels.fill(this.palette.of.sunk);
    }
    // What a square looks like, and what it shows: the first changes with time alone, by age.
    const { looks, shapes } = this.drawn;
    const flashes = this.flash && !is_fresh && !reduced();
    let [dirtyTop, dirtyEnd] = is_fresh ? [0, this.image.height] : [Infinity, 0];
    this.whole = false;
    this.first = first;
    const colours = this.colours();
    const perByte = (side * side) / map.page_bytes;
    let run = runOf(map, first);
    let block = firstBlock(map, first);
    const { runs, blocks } = map;
    const most = Math.min(side * side, 4096);
    const spans = new Int32Array(3 * most);
    for (let page = first; page < end; page += 1) {
      while (runs.first_page[run] + runs.pages[run] <= page) run += 1;
      const base = colours.run(run);
      const start = page * map.page_bytes;
      // The blocks in this page, as ranges of its pixels, and a mark that tells them apart.
      let look = base;
      let shape = Math.imul(runs.state[run] + 1, 0x85ebca6b) ^ runs.session[run];
      let n = 0;
      while (block > 0 && endOf(map, block - 1) > start) block -= 1;
      while (block < blocks.offset_bytes.length && blocks.offset_bytes[block] < start + map.page_bytes) {
        const from = Math.max(Math.floor((blocks.offset_bytes[block] - start) * perByte), 0);
        const to = Math.min(Math.ceil((endOf(map, block) - start) * perByte), side * side);
        const colour = colours.block(run, block);
        if (n < most) {
          spans[3 * n] = from;
          spans[3 * n + 1] = Math.max(to, from + 1);
          spans[3 * n + 2] = colour;
          n += 1;
        }
        const place = Math.imul(from + 1, 0x9e3779b1) ^ (to << 7);
        look = Math.imul(look ^ colour ^ place, 0x01000193);
        shape = Math.imul(shape ^ blocks.session[block] ^ (blocks.state[block] << 17) ^ place, 0x01000193);
        block += 1;
      }
      [look, shape] = [look >>> 0, shape >>> 0];
      if (flashes && shapes[page - first] !== shape && this.flashes.size < MOST_FLASHES) this.flashes.set(page, begun);
      shapes[page - first] = shape;
      if (looks[page - first] === look) continue;
      looks[page - first] = look;
      const y = Math.floor((page - first) / columns) * square + shift;
      const x = (page % columns) * square;
      fill(pixels, stride, this.image.height, x, y, side, 0, side * side, base);
      for (let i = 0; i < n; i += 1) {
        const [from, to, colour] = [spans[3 * i], spans[3 * i + 1], spans[3 * i + 2] >>> 0];
        fill(pixels, stride, this.image.height, x, y, side, from, to, colour);
        // Where one ends and the next begins.
        if (to - from > 3) fill(pixels, stride, this.image.height, x, y, side, to - 1, to, colours.edge(colour));
      }
      dirtyTop = Math.min(dirtyTop, Math.max(y, 0));
      dirtyEnd = Math.max(dirtyEnd, y + square);
    }
    if (dirtyEnd > dirtyTop) {
      const rows = Math.min(dirtyEnd, this.image.height) - dirtyTop;
      this.context.putImageData(this.image, 0, 0, 0, dirtyTop, this.image.width, rows);
    }
    this.drawOverlay();
    // For whoever wants to know what a drawing costs.
    this.draws.push(performance.now() - begun);
    if (this.draws.length > 240) this.draws.shift();
    const sorted = [...this.draws].sort((a, b) => a - b);
    this.canvas.dataset.drawMs = sorted[sorted.length >> 1].toFixed(2);
  }

  /** What flashes and where the cursor is; goes on until nothing moves. */
  drawOverlay() {
    const { over, square, columns, first } = this;
    const now = performance.now();
    over.clearRect(0, 0, this.overlay.width, this.overlay.height);
    const at = (page) => [(page % columns) * square, Math.floor((page - first) / columns) * square - (this.drawn.top % square)];
    over.fillStyle = css(this.palette.of.flash);
    for (const [page, since] of this.flashes) {
      const left = 1 - (now - since) / FLASH_MS;
      if (left <= 0) {
        this.flashes.delete(page);
        continue;
      }
      over.globalAlpha = left * 0.6;
      over.fillRect(...at(page), this.side, this.side);
    }
    over.globalAlpha = 1;
    if (this.cursor) {
      const run = runOf(this.map, this.cursor.page);
      const from = this.map.runs.first_page[run];
      const to = Math.min(from + this.map.runs.pages[run], this.pages);
      over.lineWidth = Math.max(this.ratio, 1);
      over.strokeStyle = css(this.palette.of.dim);
      if (to - from > 1 && to - from < 4096) {
        for (let page = from; page < to; page += 1) over.strokeRect(...at(page).map((v) => v + 0.5), this.side - 1, this.side - 1);
      }
      over.lineWidth = 2 * this.ratio;
      over.strokeStyle = css(this.palette.of.text);
      over.strokeRect(...at(this.cursor.page).map((v) => v - this.ratio / 2), this.side + this.ratio, this.side + this.ratio);
    }
    if (this.flashes.size > 0 && !this.moving) {
      this.moving = requestAnimationFrame(() => {
        this.moving = 0;
        if (this.map && this.drawn) this.drawOverlay();
      });
    }
  }

  /** Returns what colours runs and blocks have now. */
  colours() {
    const { map, palette, mode, shown } = this;
    const { of } = palette;
    const { runs, blocks } = map;
    const now = map.now_ms + performance.now() - this.received;
    const plain = (state, session) => {
      if (mode !== "holder" || state === "leased") return palette.holder(session);
      return state === "daemon" ? of.daemon : of.abandoned;
    };
    const full = (i) => {
      if (mode === "class") return palette.size(runs.block_bytes[i]);
      if (mode === "age") return runs.leased_at_ms[i] < 0 ? of.nobody : palette.age(now - runs.leased_at_ms[i]);
      return plain(RUNS[runs.state[i]], runs.session[i]);
    };
    const out = (colour, session) => (shown === null || shown === session ? colour : mix(of.sunk, colour, 0.16));
    let cached = [-1, 0, 0];
    const ofRun = (i) => {
      if (cached[0] !== i) {
        const state = RUNS[runs.state[i]];
        if (state === "free") cached = [i, of.free, of.free];
        else if (state === "free_committed") cached = [i, of.idle, of.idle];
        else if (state === "retired") cached = [i, of.retired, of.retired];
        else {
          const colour = full(i);
          cached = [i, out(mix(of.sunk, colour, FAINT), runs.session[i]), colour];
        }
      }
      return cached;
    };
    return {
      run: (i) => ofRun(i)[1],
      block: (i, j) => {
        const colour = ofRun(i)[2];
        if (mode !== "holder") return out(colour, blocks.session[j]);
        if (blocks.state[j] === 1) return out(of.kept, NOBODY);
        if (blocks.state[j] === 3) return out(of.abandoned, NOBODY);
        const owner = blocks.session[j];
        return out(owner === NOBODY ? colour : palette.holder(owner), owner);
      },
      edge: (colour) => mix(colour, of.sunk, 0.6),
    };
  }

  point(event) {
    const box = this.stage.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.ratio;
    const y = (event.clientY - box.top) * this.ratio + (this.drawn?.top ?? 0);
    const column = Math.floor(x / this.square);
    const page = Math.floor(y / this.square) * this.columns + column;
    if (x < 0 || column >= this.columns || page < 0 || page >= this.pages) return this.leave();
    const inX = Math.min(Math.floor(x % this.square), this.side - 1);
    const inY = Math.min(Math.floor(y % this.square), this.side - 1);
    const block = blockAt(this.map, page, (inY * this.side + inX) / (this.side * this.side), this.side);
    this.cursor = { page, block, byPointer: true };
    this.tell(false);
  }

  focused() {
    if (!this.map || !this.frame.matches(":focus-visible")) return;
    this.cursor ??= { page: this.first ?? 0, block: null, byPointer: false };
    this.tell(true);
  }

  key(event) {
    if (!this.map || event.ctrlKey || event.metaKey || event.altKey) return;
    const inView = Math.max(Math.floor(this.overlay.height / this.square), 1);
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.columns,
      ArrowDown: this.columns,
      PageUp: -this.columns * inView,
      PageDown: this.columns * inView,
      Home: -Infinity,
      End: Infinity,
    };
    const page = this.cursor?.page ?? 0;
    if (event.key in steps) {
      const to = Math.min(Math.max(page + steps[event.key], 0), this.pages - 1);
      this.cursor = { page: to, block: null, byPointer: false };
    } else if ("np".includes(event.key.toLowerCase())) {
      const block = this.neighbour(event.key.toLowerCase() === "n" ? 1 : -1);
      if (block === null) return;
      this.cursor = { page: Math.floor(this.map.blocks.offset_bytes[block] / this.map.page_bytes), block, byPointer: false };
    } else if (event.key === "+" || event.key === "=" || event.key === "-") {
      event.preventDefault();
      return this.zoom(event.key === "-" ? -1 : 1);
    } else if (event.key === "Escape") {
      return this.leave();
    } else {
      return;
    }
    event.preventDefault();
    this.show(this.cursor.page);
    this.tell(true);
  }

  /** The next block from the cursor on, or the one before. */
  neighbour(step) {
    const { length } = this.map.blocks.offset_bytes;
    let to = this.cursor?.block;
    if (to === null || to === undefined) {
      const next = firstBlock(this.map, this.cursor?.page ?? 0);
      to = step > 0 ? next : next - 1;
    } else {
      to += step;
    }
    return to >= 0 && to < length ? to : null;
  }

  show(page) {
    const y = (Math.floor(page / this.columns) * this.square) / this.ratio;
    const [top, height] = [this.frame.scrollTop, this.overlay.height / this.ratio];
    if (y < top) this.frame.scrollTop = y;
    else if (y + this.square / this.ratio > top + height) this.frame.scrollTop = y + this.square / this.ratio - height;
  }

  leave() {
    this.cursor = null;
    this.tip.hidden = true;
    if (this.map && this.drawn) this.drawOverlay();
  }

  /** Says what is at the cursor: beside it, and aloud if it came by keys. */
  tell(aloud) {
    const { page } = this.cursor;
    if (page >= this.pages) return this.leave();
    const run = runOf(this.map, page);
    const lines = [...this.sayBlock(run), ...this.sayRun(run, page)];
    const colour = this.cursor.block === null ? this.colours().run(run) : this.colours().block(run, this.cursor.block);
    const swatch = el("i", { class: "swatch" });
    swatch.style.setProperty("--c", css(colour));
    const place = this.cursor.block === null ? page * this.map.page_bytes : this.map.blocks.offset_bytes[this.cursor.block];
    const address = hex(place + this.map.payload_offset_bytes);
    this.tip.replaceChildren(
      el("strong", {}, swatch, lines[0]),
      ...lines.slice(1).map((line) => el("p", {}, line)),
      el("p", { class: "mono" }, `page ${count(page)}, offset ${address}`),
    );
    this.tip.hidden = false;
    this.place();
    if (aloud) this.said.textContent = `Page ${page}, ${lines.join("; ")}`;
    if (this.drawn) this.drawOverlay();
  }

  sayBlock(run) {
    const j = this.cursor.block;
    if (j === null) return [];
    const { blocks } = this.map;
    const name = blocks.names[j];
    const what = name ? `block “${name}”` : "block";
    const of = blocks.size_bytes[j] === 0 ? "of unknown size" : `of ${bytes(blocks.size_bytes[j])}`;
    const state = [`${what} ${of}`];
    if (blocks.state[j] === 1) state.push("kept");
    if (blocks.state[j] === 2) state.push("taken");
    if (blocks.state[j] === 3) state.push("freed while pinned");
    if (blocks.pinned[j]) state.push("pinned");
    const owner = blocks.session[j];
    const lines = [state.join(", ")];
    if (owner !== NOBODY && owner !== this.map.runs.session[run]) lines.push(`owner: ${this.name(owner)}`);
    return lines;
  }

  sayRun(run, page) {
    const { runs, page_bytes } = this.map;
    const state = RUNS[runs.state[run]];
    const length = `${many(runs.pages[run], "page")}, ${bytes(runs.pages[run] * page_bytes)}`;
    if (runs.block_bytes[run] === 0) return [SAID[state], `${length} in a row`];
    const by = state === "leased" ? ` by ${this.name(runs.session[run])}` : "";
    const at = runs.leased_at_ms[run];
    const age = at < 0 ? "" : ` for ${duration(this.map.now_ms + performance.now() - this.received - at)}`;
    const head = `${SAID[state]}${by}${state === "leased" ? age : ""}`;
    const slots = `${count(runs.exported_blocks[run])} exported of ${many(runs.slots[run], "slot")} of ${bytes(runs.block_bytes[run])}`;
    return [head, `span of ${length}: ${slots}`];
  }

  name(session) {
    if (session === NOBODY) return "somebody";
    if (session === DAEMON) return "the daemon";
    const person = this.person(session);
    return person ? `#${session} ${person.label || person.command || "?"} (pid ${person.pid}, uid ${person.uid})` : `#${session}`;
  }

  place() {
    const box = this.stage.getBoundingClientRect();
    const [column, row] = [this.cursor.page % this.columns, Math.floor(this.cursor.page / this.columns)];
    const right = box.left + ((column + 1) * this.square) / this.ratio;
    const below = box.top + ((row + 1) * this.square - (this.frame.scrollTop * this.ratio)) / this.ratio;
    const { offsetWidth, offsetHeight } = this.tip;
    const left = Math.min(right + 8, window.innerWidth - offsetWidth - 8);
    const fits = below + 8 + offsetHeight < window.innerHeight;
    const top = fits ? below + 8 : below - this.square / this.ratio - offsetHeight - 8;
    this.tip.style.left = `${Math.max(left, 8)}px`;
    this.tip.style.top = `${Math.max(top, 8)}px`;
  }

  /** What the colours mean, and how much of the pool is shown. */
  describe() {
    if (!this.map || !this.columns) return;
    const { of } = this.palette;
    const items = [];
    let key = "";
    const item = (colour, text) => {
      key += `${colour} ${text}\n`;
      const swatch = el("i", { class: "swatch" });
      swatch.style.setProperty("--c", css(colour));
      items.push(el("li", {}, swatch, text));
    };
    if (this.mode === "holder") {
      const bytesOf = new Map();
      this.map.runs.session.forEach((session, i) => {
        const of_session = this.map.runs.pages[i] * this.map.page_bytes;
        if (this.map.runs.state[i] === 2) bytesOf.set(session, (bytesOf.get(session) ?? 0) + of_session);
      });
      const largest = [...bytesOf].sort((a, b) => b[1] - a[1]);
      for (const [session] of largest.slice(0, 8)) item(this.palette.holder(session), this.short(session));
      if (largest.length > 8) item(of.nobody, `and ${many(largest.length - 8, "session")} more`);
      if (this.map.runs.state.includes(3)) item(of.daemon, "the daemon, by RPC");
      if (this.map.blocks.state.includes(1)) item(of.kept, "kept");
      if (this.map.runs.state.includes(4)) item(of.abandoned, "abandoned");
    } else {
      const stops = this.mode === "class"
        ? [16, 256, 4096, 65536, 1 << 20, 1 << 24].map((n) => [this.palette.size(n), n > 1 << 20 ? "larger" : bytes(n)])
        : [1, 10, 60, 600, 3600, 86400].map((s) => [this.palette.age(s * 1000), duration(s * 1000)]);
      for (const [colour, text] of stops) item(colour, text);
    }
    item(of.idle, "free, committed");
    item(of.free, "free");
    if (key !== this.described) this.legend.replaceChildren(...items);
    this.described = key;
    const row = bytes(this.columns * this.map.page_bytes);
    const rest = this.map.total_pages - this.pages;
    const more = rest > 0 ? ` ${bytes(rest * this.map.page_bytes)} of address space above are free.` : "";
    const cut = this.map.truncated ? " The pool has more blocks than are shown." : "";
    this.note.textContent = `A row is ${row}.${more}${cut}`;
    this.frame.setAttribute("aria-label", `Memory map of pool ${this.map.pool}: ${many(this.pages, "page")}, ${many(this.map.blocks.offset_bytes.length, "exported block")}`);
  }

  short(session) {
    if (session === NOBODY) return "somebody";
    const person = this.person(session);
    return person ? `#${session} ${person.label || person.command || ""}` : `#${session}`;
  }
}

/** Fills pixels `from` to `to` of a square, counted row by row. */
function fill(pixels, stride, height, x, y, side, from, to, colour) {
  for (let row = Math.floor(from / side); row * side < to; row += 1) {
    if (y + row < 0 || y + row >= height) continue;
    const start = (y + row) * stride + x;
    pixels.fill(colour, start + Math.max(from - row * side, 0), start + Math.min(to - row * side, side));
  }
}

/** The run that a page is in. */
function runOf(map, page) {
  return lastUpTo(map.runs.first_page, page);
}

/** The first block that ends after the start of a page. */
function firstBlock(map, page) {
  const start = page * map.page_bytes;
  const before = lastUpTo(map.blocks.offset_bytes, start);
  return before >= 0 && endOf(map, before) > start ? before : before + 1;
}

function endOf(map, block) {
  return map.blocks.offset_bytes[block] + Math.max(map.blocks.used_bytes[block], 1);
}

/** The block that is drawn at a part of a page's square. */
function blockAt(map, page, part, side) {
  const start = page * map.page_bytes;
  const pixel = map.page_bytes / (side * side);
  const block = lastUpTo(map.blocks.offset_bytes, start + part * map.page_bytes + pixel - 1);
  if (block < 0) return null;
  // A block takes a pixel at least.
  const from = start + Math.floor((map.blocks.offset_bytes[block] - start) / pixel) * pixel;
  const is_there = start + part * map.page_bytes < Math.max(endOf(map, block), from + pixel);
  return is_there ? block : null;
}

/** The last place in a sorted array whose value is not above `value`; -1 for none. */
function lastUpTo(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
