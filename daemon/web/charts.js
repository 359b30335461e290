// The last minutes, as lines. What they are drawn from is kept here, in the browser: a daemon that
// kept it for whoever may come would have to wake up for it, also when nobody ever looks.

import { css } from "./colours.js";
import { duration } from "./format.js";
import { el, say, swatch } from "./tables.js";

/** How far back a chart goes, and how far its marks are apart: the first that shows everything. */
const SPANS = [
  [60_000, 15_000],
  [120_000, 30_000],
  [300_000, 60_000],
];
const LONGEST_MS = SPANS.at(-1)[0];
/** Samples are taken when there is news, at most this often. */
const EVERY_MS = 450;

/** Samples of a few values, of the last minutes. */
export class History {
  constructor(names) {
    this.names = names;
    this.samples = []; // { at, value: {name: number} }
  }

  add(at, value) {
    const [before, last] = [this.samples.at(-2), this.samples.at(-1)];
    if (last && at < last.at) this.samples = []; // another run of the daemon
    else if (before && at - before.at < EVERY_MS) this.samples.pop();
    this.samples.push({ at, value });
    while (this.samples.length > 2 && this.samples[1].at < at - LONGEST_MS) this.samples.shift();
  }

  /** How fast a value grows, per second, over the last moments; 0 where it shrinks. */
  growth(name, value, at) {
    const since = this.samples.findLast((sample) => at - sample.at >= 900) ?? this.samples[0];
    if (!since || at <= since.at) return 0;
    return Math.max(((value - since.value[name]) * 1000) / (at - since.at), 0);
  }
}

/** A chart of some lines: [{ name, text, colour }], `say` says a value. */
export class Chart {
  constructor(canvas, legend, history, lines, say) {
    Object.assign(this, { canvas, history, lines, say });
    this.context = canvas.getContext("2d");
    this.values = lines.map((line) => {
      const value = el("b");
      legend.append(el("span", {}, swatch(line.colour), `${line.text} `, value));
      return value;
    });
    this.pointed = null;
    canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    canvas.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  point(x) {
    this.pointed = x;
    this.draw();
  }

  draw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas, context, palette } = this;
    const { samples } = this.history;
    if (!palette || samples.length === 0) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const [top, bottom] = [14, height - 16];
    const end = samples.at(-1).at;
    const highest = Math.max(...samples.flatMap((sample) => this.lines.map((line) => sample.value[line.name])));
    const scale = ceiling(highest);
    const [span, step] = SPANS.find(([length]) => length >= end - samples[0].at) ?? SPANS.at(-1);
    const x = (at) => width - ((end - at) / span) * width;
    const y = (value) => bottom - (value / scale) * (bottom - top);

    context.font = `11px ${palette.font}`;
    context.lineWidth = 1;
    context.strokeStyle = css(palette.of.line);
    context.fillStyle = css(palette.of.dim);
    for (const part of [0, 0.5, 1]) {
      const at = Math.round(bottom - part * (bottom - top)) + 0.5;
      line(context, 0, at, width, at);
    }
    context.fillText(this.say(scale), 0, top - 3);
    for (let back = span; back > 0; back -= step) {
      context.textAlign = back === span ? "left" : "center";
      context.fillText(`−${duration(back)}`, x(end - back), height - 3);
    }
    context.textAlign = "right";
    context.fillText("now", width, height - 3);
    context.textAlign = "left";

    this.lines.forEach((of, i) => {
      const colour = css(palette.holders[Number(of.colour.slice(3)) - 1]);
      context.beginPath();
      // Nothing changes between two samples: steps, not slopes.
      samples.forEach((sample, j) => {
        const to = [x(sample.at), y(sample.value[of.name])];
        if (j === 0) return context.moveTo(...to);
        context.lineTo(to[0], y(samples[j - 1].value[of.name]));
        context.lineTo(...to);
      });
      context.lineWidth = 1.75;
      context.lineJoin = "round";
      context.strokeStyle = colour;
      context.stroke();
      if (i === 0) {
        context.lineTo(width, bottom);
        context.lineTo(x(samples[0].at), bottom);
        context.globalAlpha = 0.12;
        context.fillStyle = colour;
        context.fill();
        context.globalAlpha = 1;
      }
    });

    let shown = samples.at(-1);
    if (this.pointed !== null) {
      const at = end - ((width - this.pointed) / width) * span;
      shown = samples.findLast((sample) => sample.at <= at) ?? samples[0];
      context.lineWidth = 1;
      context.strokeStyle = css(palette.of.dim);
      line(context, this.pointed + 0.5, top, this.pointed + 0.5, bottom);
    }
    this.lines.forEach((of, i) => say(this.values[i], this.say(shown.value[of.name])));
    const said = this.lines.map((of) => `${of.text} ${this.say(samples.at(-1).value[of.name])}`);
    canvas.setAttribute("aria-label", `Chart of the last ${duration(span)}; now ${said.join(", ")}`);
  }
}

function line(context, ...ends) {
  context.beginPath();
  context.moveTo(ends[0], ends[1]);
  context.lineTo(ends[2], ends[3]);
  context.stroke();
}

/** A round number above: 1, 2 or 5 times a power of ten, or of two for what is large. */
function ceiling(value) {
  if (value <= 1) return 1;
  if (value >= 65536) return 2 ** Math.ceil(Math.log2(value * 1.05));
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value);
}
