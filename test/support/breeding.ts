import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { createApp } from "../../src/app.ts";
import { createStrainRepository } from "../../src/breeding/strains/repository.ts";
import { SAMPLE_SOURCE, sampleStrains } from "../../src/breeding/strains/sample.ts";
import { randomHex } from "../../src/shared/ids.ts";
import type { Answer, Json } from "./api.ts";

/** Helpers of the Breeding API's tests. */

/** The sample strains, as a local installation has them. */
export async function loadSamples(now = Date.now()): Promise<void> {
  const records = sampleStrains().map((strain) => ({ ...strain, shapeKo: null }));
  await createStrainRepository(env.DB).load(records, { source: SAMPLE_SOURCE, isSample: true }, now);
}

/** An id that no other test uses. */
export const newStrainId = (prefix = "T"): string => `${prefix}_${randomHex(5)}`;

/** Calls a Worker of its own, with other bindings or variables than the shared one. */
export function workerWith(overrides: Partial<Record<keyof Env | string, unknown>>) {
  const app = createApp();
  const bindings = { ...env, ...overrides };
  return async <T = Json>(
    method: string,
    path: string,
    options: { token?: string; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<Answer<T>> => {
    const headers = new Headers(options.headers);
    if (options.token !== undefined) headers.set("authorization", `Bearer ${options.token}`);
    const raw =
      options.body === undefined ||
      typeof options.body === "string" ||
      options.body instanceof Uint8Array ||
      options.body instanceof FormData;
    if (!raw) headers.set("content-type", "application/json");
    const context = createExecutionContext();
    const request = new Request(`http://localhost:8000${path}`, {
      method,
      headers,
      body: raw ? (options.body as BodyInit | undefined) : JSON.stringify(options.body),
    });
    const response = await app.fetch(request, bindings, context);
    const text = await response.text();
    await waitOnExecutionContext(context);
    const isJson = response.headers.get("content-type")?.includes("json");
    return { status: response.status, body: (isJson ? JSON.parse(text) : text) as T, headers: response.headers };
  };
}

/** A D1 binding that notes the statements of each round trip: a batch is one entry. */
export function countedDb(): { db: D1Database; trips: string[][] } {
  const trips: string[][] = [];
  const sqlOf = new WeakMap<D1PreparedStatement, string>();
  const wrap = (statement: D1PreparedStatement, sql: string): D1PreparedStatement => {
    const proxy = new Proxy(statement, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => {
          const result: unknown = Reflect.apply(value, target, args);
          if (name === "bind") return wrap(result as D1PreparedStatement, sql);
          trips.push([sql]);
          return result;
        };
      },
    });
    sqlOf.set(proxy, sql);
    inner.set(proxy, statement);
    return proxy;
  };
  const inner = new WeakMap<D1PreparedStatement, D1PreparedStatement>();
  const db = new Proxy(env.DB, {
    get(target, name) {
      if (name === "prepare") return (sql: string) => wrap(target.prepare(sql), sql);
      if (name === "batch") {
        return (statements: D1PreparedStatement[]) => {
          trips.push(statements.map((statement) => sqlOf.get(statement) ?? ""));
          return target.batch(statements.map((statement) => inner.get(statement) ?? statement));
        };
      }
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return { db, trips };
}
