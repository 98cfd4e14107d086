import { type Hook, OpenAPIHono, type RouteConfig, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { Principal } from "../auth/principal.ts";
import type { AppEnv } from "../http/create-api.ts";
import { jsonContent } from "../http/create-api.ts";
import type { AppError } from "../shared/errors.ts";
import type { Caller } from "./caller.ts";
import { refuse } from "./messages.ts";

/** What the routes of the Breeding API share: Korean validation messages, its envelopes, bounded query parameters. */

type Issue = z.core.$ZodIssue;

const KOREAN_TYPE: Record<string, string> = {
  string: "문자열",
  number: "숫자",
  int: "정수",
  boolean: "true 또는 false",
  object: "객체",
  array: "배열",
};

const UNIT: Record<string, string> = { string: "자", array: "개" };

/** What is wrong, without the name of the field. */
function whatIsWrong(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type":
      return issue.message.endsWith("received undefined")
        ? "필수 항목입니다"
        : `${KOREAN_TYPE[issue.expected] ?? issue.expected} 형식이어야 합니다`;
    case "too_small":
      return `${issue.minimum}${UNIT[issue.origin] ?? ""} ${issue.inclusive === false ? "초과여야" : "이상이어야"} 합니다`;
    case "too_big":
      return `${issue.maximum}${UNIT[issue.origin] ?? ""} ${issue.inclusive === false ? "미만이어야" : "이하여야"} 합니다`;
    case "invalid_value":
      return `다음 중 하나여야 합니다: ${issue.values.map(String).join(", ")}`;
    case "unrecognized_keys":
      return `알 수 없는 항목입니다: ${issue.keys.join(", ")}`;
    default:
      return "형식이 올바르지 않습니다";
  }
}

/** The first thing wrong with an input, in Korean. A schema's own Korean message is shown as it is. */
export function koreanValidationError(error: z.core.$ZodError): AppError {
  const issue = error.issues[0];
  if (issue === undefined) return refuse("입력값이 올바르지 않습니다");
  const field = issue.path.length === 0 ? null : issue.path.map(String).join(".");
  if (/\p{Script=Hangul}/u.test(issue.message)) return refuse(issue.message, field);
  const text = whatIsWrong(issue);
  return refuse(field === null ? text : `${field}: ${text}`, field);
}

const onInvalid: Hook<unknown, AppEnv, string, unknown> = (result) => {
  if (!result.success) throw koreanValidationError(result.error as z.core.$ZodError);
};

/** A group of routes of this API. */
export const createBreedingRouter = () => new OpenAPIHono<AppEnv>({ defaultHook: onInvalid });

/** A query parameter that is a whole number within bounds; `1.0`, `1e3`, `01` and an empty text are refused. */
export const pageQuery = (options: { min: number; max: number; default: number }) =>
  z
    .string()
    .regex(/^(0|[1-9]\d{0,9})$/, "정수여야 합니다")
    .transform(Number)
    .pipe(z.number().int().min(options.min).max(options.max))
    .optional()
    .transform((value) => value ?? options.default)
    .openapi({ type: "integer", minimum: options.min, maximum: options.max, default: options.default });

/** `true` or `false`; absent is false. */
export const flagQuery = () =>
  z
    .enum(["true", "false"])
    .optional()
    .transform((value) => value === "true")
    .openapi({ type: "boolean", default: false });

/** `page` and `limit` as the contract has them. */
export const PageQuery = {
  page: pageQuery({ min: 1, max: 10_000, default: 1 }),
  limit: pageQuery({ min: 1, max: 100, default: 10 }),
};

/** `{success, data}` and what stands beside. */
export const success = <T extends z.ZodType>(data: T) => z.object({ success: z.literal(true), data });

export const successWithMessage = <T extends z.ZodType>(data: T) => success(data).extend({ message: z.string() });

export const successPage = <T extends z.ZodType>(data: T) =>
  success(data).extend({
    total: z.number().int(),
    page: z.number().int(),
    limit: z.number().int(),
    hasMore: z.boolean(),
  });

/** The fields of a page beside its rows. */
export const pageOf = (query: { page: number; limit: number }, total: number) => ({
  total,
  page: query.page,
  limit: query.limit,
  hasMore: query.page * query.limit < total,
});

export const BreedingErrorSchema = z
  .object({ success: z.literal(false), error: z.string() })
  .openapi("BreedingError", { example: { success: false, error: "계통을 찾을 수 없습니다" } });

const PROBLEM_TEXT: Record<number, string> = {
  400: "잘못된 요청",
  401: "인증 필요",
  403: "권한 없음",
  404: "찾을 수 없음",
  429: "요청 제한 초과 (Phase 2)",
  500: "서버 오류",
};

/** For routes that are open in phase 1 and ask for a token in phase 2: clients send one when they have it. */
export const OPEN_IN_PHASE_1: NonNullable<RouteConfig["security"]> = [{}, { bearer: [] }];

/** The error answers that a route documents. */
export const problems = (...statuses: number[]): RouteConfig["responses"] =>
  Object.fromEntries(
    [...statuses, 500].map((status) => [
      String(status),
      jsonContent(BreedingErrorSchema, PROBLEM_TEXT[status] ?? "오류"),
    ]),
  );

/** A table as a download. */
export const csvContent = { description: "CSV (UTF-8, BOM)", content: { "text/csv": { schema: z.string() } } };

export const csvHeaders = (fileName: string): Record<string, string> => ({
  "content-type": "text/csv; charset=utf-8",
  "content-disposition": `attachment; filename="${fileName}"`,
});

/** Waits for work that must come to its end even if the client goes away. */
export function toTheEnd<T>(c: Context<AppEnv>, work: Promise<T>): Promise<T> {
  c.executionCtx.waitUntil(work.catch(() => undefined));
  return work;
}

/** The caller of a read route. In phase 1 there is none, and a token that is sent along is not looked at. */
export const callerOf = (c: Context<AppEnv>): Caller => (c.get("principal") as Principal | undefined) ?? null;
