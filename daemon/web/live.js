// News of the daemon, as it sends them. It looks at its state only while somebody listens: so a
// page that is not seen does not listen.

/** The daemon says something every 5 s, also when there is no news. */
const SILENCE_MS = 12_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;

export class Live {
  /** Calls `on.observation(o)`, `on.map(m)`, and `on.state("connecting" | "live" | "lost")`. */
  constructor(on) {
    this.on = on;
    this.pool = null;
    this.source = null;
    this.pause = FIRST_PAUSE_MS;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    if (!document.hidden) this.open();
  }

  /** Follows the map of a pool, or of none. */
  follow(pool) {
    if (pool === this.pool) return;
    this.pool = pool;
    if (!document.hidden) this.open();
  }

  open() {
    this.close();
    const path = this.pool === null ? "/api/v1/live" : `/api/v1/pools/${encodeURIComponent(this.pool)}/live`;
    const source = new EventSource(path);
    this.source = source;
    const heard = (tell) => (event) => {
      this.pause = FIRST_PAUSE_MS;
      this.listen();
      this.on.state("live");
      tell(JSON.parse(event.data));
    };
    source.addEventListener("observation", heard((observation) => this.on.observation(observation)));
    source.addEventListener("map", heard((map) => this.on.map(map)));
    // The pool has gone, or may not be looked at any more.
    source.addEventListener("gone", heard(() => this.on.map(null)));
    source.onerror = () => this.retry();
    this.listen();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** A daemon that is stopped or whose machine sleeps closes nothing. */
  listen() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.retry(), SILENCE_MS);
  }

  /** A browser gives up by itself where a connection is refused; this does not. */
  retry() {
    this.close();
    this.on.state("lost");
    this.timer = setTimeout(() => this.open(), this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }
}
