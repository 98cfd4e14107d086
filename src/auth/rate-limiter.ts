import { DurableObject } from "cloudflare:workers";

/** A count that starts anew `windowMs` after its first hit. */
export type Window = { count: number; resetsAtMs: number };

/** Pure: the window as it stands at `now`. */
export const windowAt = (window: Window | undefined, windowMs: number, now: number): Window =>
  window !== undefined && now < window.resetsAtMs ? window : { count: 0, resetsAtMs: now + windowMs };

/** Counts for one key (an address, an account and address together): one object per key, exact, in its own storage. */
export class RateLimiter extends DurableObject<Env> {
  /** The current count without adding to it. */
  async peek(windowMs: number): Promise<Window> {
    return windowAt(this.ctx.storage.kv.get<Window>("window"), windowMs, Date.now());
  }

  /** Adds one and returns the count with it. The storage empties itself when the window is over. */
  async hit(windowMs: number): Promise<Window> {
    const window = windowAt(this.ctx.storage.kv.get<Window>("window"), windowMs, Date.now());
    const next = { ...window, count: window.count + 1 };
    this.ctx.storage.kv.put("window", next);
    if (next.count === 1) await this.ctx.storage.setAlarm(next.resetsAtMs);
    return next;
  }

  /** Takes one hit back, for a try that turned out to be a good one. */
  async forgive(windowMs: number): Promise<void> {
    const window = windowAt(this.ctx.storage.kv.get<Window>("window"), windowMs, Date.now());
    if (window.count > 0) this.ctx.storage.kv.put("window", { ...window, count: window.count - 1 });
  }

  override async alarm(): Promise<void> {
    await this.ctx.storage.deleteAll();
  }
}
