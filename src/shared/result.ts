/** The outcome of pure code and of Durable Object calls: thrown errors lose their class between isolates, values do not. */
export type Result<T, E = Failure> = { ok: true; value: T } | { ok: false; error: E };

/** An expected failure in a form that survives an RPC: a code of the error table, a message, the input field at fault. */
export type Failure<C extends string = string> = { code: C; message: string; field?: string | null };

export const ok = <T>(value: T): { ok: true; value: T } => ({ ok: true, value });

export const err = <E>(error: E): { ok: false; error: E } => ({ ok: false, error });

export const fail = <C extends string>(code: C, message: string, field: string | null = null) =>
  err({ code, message, field } satisfies Failure<C>);
