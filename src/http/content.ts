import { AppError } from "../shared/errors.ts";

export type ByteRange = { offset: number; length: number };

/**
 * Reads a `Range` header against a known size: the one range it asks for, `unsatisfiable`, or null for the whole content
 * (no header, another unit, several ranges, or malformed, which RFC 9110 lets a server ignore).
 */
export function parseRange(header: string | null | undefined, size: number): ByteRange | "unsatisfiable" | null {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? "");
  if (match === null) return null;
  const [, first = "", last = ""] = match;
  if (first === "" && last === "") return null;
  if (first === "") {
    const length = Math.min(Number(last), size);
    return length === 0 ? "unsatisfiable" : { offset: size - length, length };
  }
  const offset = Number(first);
  const end = last === "" ? size - 1 : Math.min(Number(last), size - 1);
  return offset >= size || end < offset ? "unsatisfiable" : { offset, length: end - offset + 1 };
}

const matchesTag = (header: string, etag: string): boolean =>
  header.trim() === "*" || header.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag);

export type Content = {
  sizeBytes: number;
  /** Hash of the bytes: the strong ETag is made of it. */
  sha256: string;
  contentType: string;
  /** Set: the browser saves it under this name instead of showing it. */
  downloadName?: string;
  open: (range: ByteRange | null) => Promise<ReadableStream<Uint8Array>>;
};

/** A file name for `Content-Disposition` (RFC 6266, RFC 8187): ASCII fallback and the exact name, no way to end the header. */
export const attachment = (name: string): string => {
  const ascii = name.replace(/[^\w.-]/g, "_");
  const exact = encodeURIComponent(name).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename="${ascii}"; filename*=UTF-8''${exact}`;
};

/**
 * Answers a request for stored bytes: 200, 206 for one range, 304 for a known ETag. Content from users is never executed
 * by a browser: `nosniff` and a sandbox.
 * @throws RANGE_NOT_SATISFIABLE
 */
export async function serveContent(request: Request, content: Content): Promise<Response> {
  const etag = `"${content.sha256}"`;
  const headers = new Headers({
    "accept-ranges": "bytes",
    "cache-control": "private, no-cache",
    "content-security-policy": "default-src 'none'; sandbox",
    "content-type": content.contentType,
    "x-content-type-options": "nosniff",
    etag,
  });
  if (content.downloadName !== undefined) headers.set("content-disposition", attachment(content.downloadName));
  const known = request.headers.get("if-none-match");
  if (known !== null && matchesTag(known, etag)) return new Response(null, { status: 304, headers });

  const ifRange = request.headers.get("if-range");
  const wanted = ifRange === null || ifRange.trim() === etag ? request.headers.get("range") : null;
  const range = parseRange(wanted, content.sizeBytes);
  if (range === "unsatisfiable") {
    throw new AppError("RANGE_NOT_SATISFIABLE", `The content has ${content.sizeBytes} bytes`, {
      headers: { "content-range": `bytes */${content.sizeBytes}` },
    });
  }
  headers.set("content-length", String(range?.length ?? content.sizeBytes));
  if (range) {
    headers.set("content-range", `bytes ${range.offset}-${range.offset + range.length - 1}/${content.sizeBytes}`);
  }
  const body = request.method === "HEAD" ? null : await content.open(range);
  return new Response(body, { status: range ? 206 : 200, headers });
}
