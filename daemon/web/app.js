// Puts the page together: news come in, and each part shows what is its.

import { bytes, count, duration, many, rate } from "./format.js";
import { Palette } from "./colours.js";
import { Chart, History } from "./charts.js";
import { Live } from "./live.js";
import { MemoryMap } from "./map.js";
import { arenas, bar, figures, poolFigures, pools, say, Sessions } from "./tables.js";

const find = (id) => document.getElementById(id);
const palette = new Palette();
const people = new Map();
const map = new MemoryMap(find, palette, (session) => people.get(session));
const sessions = new Sessions(find("sessions"), (session) => map.highlight(session));
const history = new History();
const charts = [
  new Chart(find("chart-bytes"), find("chart-bytes-legend"), history, [
    { name: "committed", text: "committed", colour: "--h4" },
    { name: "leased", text: "leased", colour: "--h5" },
    { name: "used", text: "in blocks", colour: "--h1" },
  ], bytes),
  new Chart(find("chart-counts"), find("chart-counts-legend"), history, [
    { name: "blocks", text: "blocks", colour: "--h1" },
    { name: "sessions", text: "sessions", colour: "--h2" },
    { name: "arenas", text: "arenas held", colour: "--h3" },
  ], count),
  new Chart(find("chart-rates"), find("chart-rates-legend"), history, [
    { name: "exports", text: "more blocks", colour: "--h1" },
    { name: "leases", text: "more spans", colour: "--h5" },
  ], rate),
];
let last = null;
let chosen = named() || null;
let updates = 0;

const live = new Live({
  observation: (observation) => {
    last = observation;
    show();
  },
  map: (pool) => {
    map.set(pool);
    if (pool === null) find("map-frame").hidden = true;
  },
  state: (state) => {
    const text = { connecting: "connecting", live: "live", lost: "disconnected, trying again" };
    find("link").dataset.state = state;
    say(find("link-text"), text[state]);
  },
});

/** The pool that the address names. */
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

function show() {
  const { daemon } = last;
  people.clear();
  last.sessions.forEach((session) => people.set(session.number, session));
  palette.assign(last.sessions);
  say(find("daemon"), `goumemd ${daemon.version} · pid ${daemon.pid} · up ${duration(daemon.uptime_ms)} · run ${daemon.epoch}`);
  showTotals();
  showPools();
  arenas(find("arenas"), last.arena_pools, palette, (number, holder) => {
    const session = people.get(number);
    return session ? `#${number} ${session.label || session.command || ""} (pid ${holder.pid})` : `#${number} (pid ${holder.pid})`;
  });
  sessions.show(last.sessions, palette);
  say(find("pools-count"), last.pools.length ? many(last.pools.length, "pool") : "");
  say(find("arenas-count"), last.arena_pools.length ? many(last.arena_pools.length, "arena pool") : "");
  say(find("sessions-count"), last.sessions.length ? `${count(last.sessions.length)} of at most ${count(daemon.max_sessions)}` : "");
  find("pools-empty").hidden = last.pools.length > 0;
  find("arenas-empty").hidden = last.arena_pools.length > 0;
  find("sessions-empty").hidden = last.sessions.length > 0;
  find("sessions").hidden = last.sessions.length === 0;
  updates += 1;
  document.documentElement.dataset.updates = updates;
}

function sum(items, of) {
  return items.reduce((total, item) => total + of(item), 0);
}

function showTotals() {
  const { daemon, pools: all, arena_pools } = last;
  const used = sum(all, (pool) => pool.used_bytes);
  const leased = sum(all, (pool) => pool.leased_bytes + pool.abandoned_bytes);
  const idle = sum(all, (pool) => pool.free_committed_bytes);
  const of_arenas = sum(arena_pools, (pool) => pool.committed_bytes);
  const tables = sum([...all, ...arena_pools], (pool) => pool.table_bytes);
  const seen = leased + idle + of_arenas + tables;
  const parts = [
    { what: "exported blocks", bytes: Math.min(used, leased), colour: "--h1" },
    { what: "leased, not exported", bytes: Math.max(leased - used, 0), colour: "--h5" },
    { what: "arenas", bytes: of_arenas, colour: "--h3" },
    { what: "free, committed", bytes: idle, colour: "--idle" },
    { what: "tables", bytes: tables, colour: "--daemon" },
  ];
  // What this viewer may not see is committed all the same.
  if (daemon.committed_bytes > seen) parts.push({ what: "others", bytes: daemon.committed_bytes - seen, colour: "--nobody" });
  bar(find("budget"), parts, daemon.budget_limit_bytes);
  figures(find("totals"), [
    { what: "Committed", value: bytes(daemon.committed_bytes), note: `of ${bytes(daemon.budget_limit_bytes)}` },
    ...parts.map((part) => ({ what: part.what, value: bytes(part.bytes), colour: part.colour })),
    { what: "machine has left", value: bytes(daemon.available_bytes) },
  ]);
  const at = daemon.uptime_ms;
  const blocks = sum(all, (pool) => pool.blocks);
  const leases = sum(all, (pool) => pool.leases);
  history.add(at, {
    committed: daemon.committed_bytes,
    leased,
    used,
    blocks,
    spans: leases,
    sessions: daemon.sessions,
    arenas: sum(arena_pools, (pool) => pool.exclusive + pool.named),
    exports: history.growth("blocks", blocks, at),
    leases: history.growth("spans", leases, at),
  });
  charts.forEach((chart) => {
    chart.palette = palette;
    chart.draw();
  });
}

function showPools() {
  const names = last.pools.map((pool) => pool.identity.name);
  if (!names.includes(chosen)) {
    // The one with most in it, until somebody chooses.
    const largest = [...last.pools].sort((a, b) => b.leased_bytes - a.leased_bytes)[0];
    chosen = largest?.identity.name ?? null;
  }
  live.follow(chosen);
  pools(find("pools"), last.pools, chosen, choose);
  const pool = last.pools.find(({ identity }) => identity.name === chosen);
  find("map-view").hidden = last.pools.length === 0;
  find("map-empty").hidden = pool !== undefined;
  say(find("map-title"), pool ? `Memory of ${chosen}` : "Memory map");
  if (pool) poolFigures(find("pool-figures"), pool);
}

function choose(name) {
  window.history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  // Of the pool that is shown there is no other map until something changes.
  if (name === chosen) return;
  chosen = name;
  map.set(null);
  showPools();
}

find("colour-by").addEventListener("change", (event) => map.colourBy(event.target.value));
find("zoom-in").addEventListener("click", () => map.zoom(1));
find("zoom-out").addEventListener("click", () => map.zoom(-1));

const THEMES = ["auto", "light", "dark"];
const MARKS = { auto: "◐", light: "○", dark: "●" };

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(find("theme-mark"), MARKS[theme]);
  say(find("theme-text"), `theme: ${theme}`);
  palette.read();
  map.recolour();
  if (last) show();
}

function kept() {
  // A browser may forbid to keep anything.
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

let theme = THEMES.includes(kept()) ? kept() : "auto";
setTheme(theme);
find("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // It holds until the page is closed.
  }
  setTheme(theme);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(theme));
