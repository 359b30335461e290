// How numbers are said: short, with their unit, and always the same.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 6442450944 → "6.00 GiB": three digits, as many as an eye compares. */
export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  let unit = 0;
  while (Math.abs(n) >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(n) >= 100 ? 0 : Math.abs(n) >= 10 ? 1 : 2;
  return `${n.toFixed(digits)} ${UNITS[unit]}`;
}

/** 12345 → "12 345". */
export function count(n) {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** The same for one thing or many: "1 page", "2 pages". */
export function many(n, thing, things = `${thing}s`) {
  return `${count(n)} ${n === 1 ? thing : things}`;
}

/** A rate, which may be small. */
export function rate(n) {
  return n === 0 || n >= 10 ? count(n) : n.toFixed(1);
}

/** Milliseconds → "850 ms", "12 s", "3 min 20 s", "2 h 5 min", "4 d 3 h". */
export function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return min < 10 && s % 60 ? `${min} min ${s % 60} s` : `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 ? `${d} d ${h % 24} h` : `${d} d`;
}

/** An offset, as handles and debuggers print it. */
export function hex(n) {
  return `0x${n.toString(16)}`;
}

/** 0.31 → "31 %". */
export function percent(part) {
  return `${(100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
}

/** Mode bits, as ls prints them for a file, without x. */
export function mode(bits) {
  const digit = (shift) => ((bits >> shift) & 4 ? "r" : "-") + ((bits >> shift) & 2 ? "w" : "-");
  return digit(6) + digit(3) + digit(0);
}
