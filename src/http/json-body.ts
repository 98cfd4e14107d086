import { createMiddleware } from "hono/factory";
import { AppError } from "../shared/errors.ts";
import { readBytes } from "./body.ts";
import type { AppEnv } from "./create-api.ts";

/** A JSON body of the public routes: far above any honest one, far below what a parser minds. */
export const MAX_JSON_BYTES = 1024 * 1024;
const MAX_JSON_DEPTH = 64;

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const OPENERS = new Set([0x5b, 0x7b]);
const CLOSERS = new Set([0x5d, 0x7d]);

/** Whether a JSON text (UTF-8) nests deeper than `max`: recursive code behind the parser would run out of stack. */
export function isDeeperThan(json: Uint8Array, max: number): boolean {
  let depth = 0;
  let inText = false;
  for (let i = 0; i < json.length; i += 1) {
    const byte = json[i] ?? 0;
    if (inText) {
      if (byte === BACKSLASH) i += 1;
      else if (byte === QUOTE) inText = false;
    } else if (byte === QUOTE) inText = true;
    else if (OPENERS.has(byte)) {
      depth += 1;
      if (depth > max) return true;
    } else if (CLOSERS.has(byte)) depth -= 1;
  }
  return false;
}

const isJson = (type: string | undefined) => /^\s*application\/(?:[\w.+-]+\+)?json\b/i.test(type ?? "");

/**
 * Reads JSON bodies within their limits before a route's validation does, whatever `content-length` says. Other bodies are
 * left alone: they are refused by type, or their routes stream them.
 * @param except paths that read their JSON by themselves
 */
export const limitJsonBody = (except: string[]) =>
  createMiddleware<AppEnv>(async (c, next) => {
    if (isJson(c.req.header("content-type")) && !except.includes(c.req.path)) {
      if (c.req.header("content-encoding") !== undefined) {
        throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-encoding is not supported here");
      }
      const bytes = await readBytes(c.req.raw, { bodyBytes: MAX_JSON_BYTES, inflatedBytes: MAX_JSON_BYTES });
      if (isDeeperThan(bytes, MAX_JSON_DEPTH)) {
        throw new AppError("VALIDATION_ERROR", `The body may nest at most ${MAX_JSON_DEPTH} levels`);
      }
      if (c.req.raw.body !== null) c.req.raw = new Request(c.req.raw, { body: bytes });
    }
    await next();
  });
