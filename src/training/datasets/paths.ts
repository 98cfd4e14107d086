import { err, ok, type Result } from "../../shared/result.ts";

/**
 * Names of files inside a dataset. They are labels in the index and never part of a storage key, but runners write them to
 * disk, so a name has to mean the same place everywhere: relative, below the dataset, in one spelling.
 */

/** R2's limit for a key and Linux's for a path component; both count bytes. */
const MAX_PATH_BYTES = 1024;
const MAX_SEGMENT_BYTES = 255;
const MAX_SEGMENTS = 64;

/** Characters that only look like a slash or a backslash; some systems fold them into one. */
const SLASH_LIKE = /[\u2044\u2215\u29f5\u29f8\ufe68\uff0f\uff3c]/;
const DRIVE = /^[A-Za-z]:/;
const LONE_SURROGATE = /\p{Cs}/u;
const CONTROL = /\p{Cc}/u;

/** File-system litter that archivers and file managers add; it is left out of a dataset. */
const LITTER = /(^|\/)(__MACOSX(\/|$)|\.DS_Store$|\._[^/]*$|Thumbs\.db$|desktop\.ini$)/i;

export const isLitter = (path: string): boolean => LITTER.test(path);

/**
 * The one spelling of a path as sent (Unicode NFC: macOS sends Hangul and accents decomposed), or what is wrong with it.
 * A leading `./` is dropped; nothing else is repaired.
 */
export function canonicalPath(raw: string): Result<string, string> {
  const path = raw.replace(/^(?:\.\/)+/, "").normalize("NFC");
  if (path === "") return err("has no name");
  if (LONE_SURROGATE.test(path)) return err("is not valid Unicode");
  if (CONTROL.test(path)) return err("contains a control character");
  if (path.includes("\\")) return err("contains a backslash; folders are separated by /");
  if (path.startsWith("/")) return err("is absolute");
  if (DRIVE.test(path)) return err("starts with a drive letter");
  if (SLASH_LIKE.test(path)) return err("contains a character that looks like a slash");
  if (utf8Length(path) > MAX_PATH_BYTES) return err(`is longer than ${MAX_PATH_BYTES} bytes`);
  const segments = path.split("/");
  if (segments.length > MAX_SEGMENTS) return err(`has more than ${MAX_SEGMENTS} folders`);
  for (const segment of segments) {
    if (segment === "") return err("has an empty folder or file name");
    if (climbs(segment)) return err("leads out of its folder");
    if (utf8Length(segment) > MAX_SEGMENT_BYTES) return err(`has a name longer than ${MAX_SEGMENT_BYTES} bytes`);
  }
  return ok(path);
}

/**
 * Whether a segment is, or becomes after normalising (NFKC) or percent-decoding, a step to the same or the parent folder.
 * Windows drops trailing dots and blanks, so `..  ` and `...` count as well.
 */
function climbs(segment: string): boolean {
  let form = segment.normalize("NFKC");
  for (let round = 0; round < 3; round++) {
    if (/^[. ]*$/.test(form) || /[/\\]/.test(form)) return true;
    const decoded = form.replace(/%(2e|2f|5c|25|00)/gi, (escaped) => decodeURIComponent(escaped));
    if (decoded === form) return false;
    form = decoded;
  }
  // Encoded over and over: nobody names a file like that by chance.
  return true;
}

function utf8Length(text: string): number {
  // At most three bytes per UTF-16 unit, so short names need no encoding to be measured.
  return text.length * 3 <= MAX_SEGMENT_BYTES ? text.length : new TextEncoder().encode(text).length;
}

/** Order of code points, which is the order of the UTF-8 bytes and of Python's `sorted`: class ids depend on it. */
export function compareCodePoints(left: string, right: string): number {
  const length = Math.min(left.length, right.length);
  for (let i = 0; i < length; i++) {
    const a = left.charCodeAt(i);
    const b = right.charCodeAt(i);
    if (a !== b) {
      // UTF-16 puts surrogates (U+10000 and above) below U+E000..U+FFFF.
      const aSurrogate = a >= 0xd800 && a <= 0xdfff;
      const bSurrogate = b >= 0xd800 && b <= 0xdfff;
      return aSurrogate === bSurrogate ? a - b : aSurrogate ? 1 : -1;
    }
  }
  return left.length - right.length;
}

/** `train` of `train/cat/1.png`, or null for a file that is in no folder. */
export function topFolder(path: string): string | null {
  const slash = path.indexOf("/");
  return slash === -1 ? null : path.slice(0, slash);
}

/** `1.png` of `train/cat/1.png`. */
export const baseName = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

/** The one folder in which all paths are, or null. */
export function commonTopFolder(paths: Iterable<string>): string | null {
  let common: string | null = null;
  for (const path of paths) {
    const top = topFolder(path);
    if (top === null || (common !== null && top !== common)) return null;
    common = top;
  }
  return common;
}

/** The first path that is a file and, in another path, a folder: such a set cannot be written to a disk. Null if none. */
export function fileUsedAsFolder(paths: ReadonlySet<string>): string | null {
  for (const path of paths) {
    for (let slash = path.indexOf("/"); slash !== -1; slash = path.indexOf("/", slash + 1)) {
      const folder = path.slice(0, slash);
      if (paths.has(folder)) return folder;
    }
  }
  return null;
}
