const kindOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "array" : Number.isInteger(value) ? "integer" : typeof value;

const fits = (printed: string, actual: string): boolean =>
  printed === actual ||
  // What is printed as null is a value at another time, and 1.0 is printed where a fraction may stand.
  printed === "null" ||
  (printed === "number" && actual === "integer") ||
  (printed === "integer" && actual === "number");

/**
 * Where an answer lacks what a printed example has: every printed key has to be there with the printed type. More keys are
 * welcome. A printed list describes its items by its first one, and has to have at least one.
 */
export function missingFrom(actual: unknown, printed: unknown, at = "$"): string[] {
  const [printedKind, actualKind] = [kindOf(printed), kindOf(actual)];
  if (!fits(printedKind, actualKind)) return [`${at}: printed ${printedKind}, answered ${actualKind}`];
  if (Array.isArray(printed) && Array.isArray(actual)) {
    if (printed.length > 0 && actual.length === 0) return [`${at}: answered an empty list`];
    return printed.length === 0
      ? []
      : actual.flatMap((item, i) => missingFrom(item, printed[0], `${at}[${i}]`)).slice(0, 5);
  }
  if (printedKind !== "object") return [];
  const [wanted, given] = [printed as Record<string, unknown>, actual as Record<string, unknown>];
  return Object.keys(wanted).flatMap((key) =>
    key in given ? missingFrom(given[key], wanted[key], `${at}.${key}`) : [`${at}.${key} is missing`],
  );
}
