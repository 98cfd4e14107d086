/**
 * Routes that will go away. One row is everything that has to be written: the headers of RFC 9745 (`Deprecation`) and RFC 8594
 * (`Sunset`) and the link to the migration guide follow from it.
 */
export type DeprecatedRoute = {
  method: string;
  /** As routed, with `{name}` for a parameter: `/api/strains/{id}`. */
  path: string;
  /** `2026-03-01`: from this day on the route is announced as deprecated. */
  deprecatedOn: string;
  /** The day from which it may be gone; at least six months later (section 7.3 of the contract). */
  sunsetOn: string;
  /** Page that says what to call instead. */
  guideUrl: string;
};

export const DEPRECATED_ROUTES: readonly DeprecatedRoute[] = [];

const MIN_NOTICE_MONTHS = 6;

const dayMs = (day: string): number => Date.parse(`${day}T00:00:00Z`);

/** Rows that break the contract's promise, in words; empty when none does. Pure. */
export function noticeProblems(routes: readonly DeprecatedRoute[]): string[] {
  return routes.flatMap(({ method, path, deprecatedOn, sunsetOn }) => {
    const name = `${method} ${path}`;
    if (Number.isNaN(dayMs(deprecatedOn)) || Number.isNaN(dayMs(sunsetOn))) return [`${name}: a date is not a day`];
    const earliest = new Date(dayMs(deprecatedOn));
    earliest.setUTCMonth(earliest.getUTCMonth() + MIN_NOTICE_MONTHS);
    return dayMs(sunsetOn) < earliest.getTime()
      ? [`${name}: less than ${MIN_NOTICE_MONTHS} months between ${deprecatedOn} and ${sunsetOn}`]
      : [];
  });
}

const patternOf = (path: string): RegExp =>
  new RegExp(`^${path.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\w+\}/g, "[^/]+")}$`);

/** The headers of a call, empty for a route that stays. Pure. */
export function deprecationHeaders(
  routes: readonly DeprecatedRoute[],
  call: { method: string; path: string },
): Record<string, string> {
  const route = routes.find(({ method, path }) => method === call.method && patternOf(path).test(call.path));
  if (route === undefined) return {};
  return {
    Deprecation: `@${dayMs(route.deprecatedOn) / 1000}`,
    Sunset: new Date(dayMs(route.sunsetOn)).toUTCString(),
    Link: `<${route.guideUrl}>; rel="deprecation"; type="text/html"`,
  };
}
