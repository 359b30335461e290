// Colours, as the style sheet has them for the theme that shows. Canvases need them as numbers.

const HOLDERS = 8;
const RAMP = 6;
const NAMED = ["free", "idle", "retired", "daemon", "kept", "abandoned", "nobody", "flash", "panel", "sunk", "line", "text", "dim", "accent"];

/** Owners of words and spans that are no clients, as docs/layout.md numbers them. */
export const NOBODY = 0;
export const DAEMON = 65535;

const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** A CSS colour → 0xAABBGGRR, a pixel of ImageData on the machines that browsers run on. */
function pixel(css) {
  probe.clearRect(0, 0, 1, 1);
  probe.fillStyle = css;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
  return ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** Moves a pixel towards another, by a part from 0 to 1. */
export function mix(from, to, part) {
  const channel = (shift) => {
    const [a, b] = [(from >>> shift) & 255, (to >>> shift) & 255];
    return Math.round(a + (b - a) * part) << shift;
  };
  return (0xff000000 | channel(16) | channel(8) | channel(0)) >>> 0;
}

/** A pixel → what a canvas and a style take. */
export function css(value) {
  return `rgb(${value & 255} ${(value >>> 8) & 255} ${(value >>> 16) & 255})`;
}

/** The colours of the theme, and which session has which. */
export class Palette {
  constructor() {
    this.taken = new Map(); // session's serial → colour
    this.numbers = new Map(); // session's number → colour
    this.read();
  }

  /** Reads the style sheet again, after the theme has changed. */
  read() {
    const style = getComputedStyle(document.body);
    const element = document.createElement("i");
    document.body.append(element);
    const resolve = (name) => {
      element.style.color = `var(--${name})`;
      return pixel(getComputedStyle(element).color);
    };
    this.of = Object.fromEntries(NAMED.map((name) => [name, resolve(name)]));
    this.holders = Array.from({ length: HOLDERS }, (_, i) => resolve(`h${i + 1}`));
    this.ramp = Array.from({ length: RAMP }, (_, i) => resolve(`r${i}`));
    this.font = style.fontFamily;
    element.remove();
  }

  /** Gives each session that is new a colour which is free, and keeps those that others have. */
  assign(sessions) {
    const living = new Set(sessions.map((session) => session.serial));
    for (const serial of this.taken.keys()) if (!living.has(serial)) this.taken.delete(serial);
    this.numbers.clear();
    // The large ones first: with more sessions than colours, they share with small ones.
    const by_size = [...sessions].sort((a, b) => b.leased_bytes - a.leased_bytes);
    for (const session of by_size) {
      if (!this.taken.has(session.serial)) this.taken.set(session.serial, this.rarest());
      this.numbers.set(session.number, this.taken.get(session.serial));
    }
  }

  rarest() {
    const uses = new Array(HOLDERS).fill(0);
    for (const colour of this.taken.values()) uses[colour] += 1;
    return uses.indexOf(Math.min(...uses));
  }

  /** Who holds something. */
  holder(session) {
    if (session === DAEMON) return this.of.daemon;
    const colour = this.numbers.get(session);
    return colour === undefined ? this.of.nobody : this.holders[colour];
  }

  /** A place on the ramp, from 0 to 1. */
  along(part) {
    const at = Math.min(Math.max(part, 0), 1) * (RAMP - 1);
    const i = Math.min(Math.floor(at), RAMP - 2);
    return mix(this.ramp[i], this.ramp[i + 1], at - i);
  }

  /** A block size: 16 B to 1 MiB, and all above. */
  size(bytes) {
    return this.along((Math.log2(Math.max(bytes, 16)) - 4) / 17);
  }

  /** An age: a second to a day. */
  age(ms) {
    return this.along(Math.log10(Math.max(ms, 1000) / 1000) / Math.log10(86400));
  }
}
