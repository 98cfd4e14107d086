import { err, ok, type Result } from "../../../../src/shared/result.ts";
import { canonicalPath, fileUsedAsFolder } from "../../../../src/training/datasets/paths.ts";
import type { ManifestFile } from "../wire.ts";

/**
 * Checks a dataset manifest before anything of it touches the disk. It is untrusted: a name may try to leave the folder
 * (absolute, `..`, drive letter, backslash, NUL), stand for two files or be a file and a folder at once. Pure.
 */
export function checkManifest(files: readonly ManifestFile[]): Result<void, string> {
  const paths = new Set<string>();
  // macOS and Windows take names that differ in case for one.
  const folded = new Set<string>();
  for (const { path } of files) {
    const canonical = canonicalPath(path);
    if (!canonical.ok) return err(`${JSON.stringify(path.slice(0, 200))} ${canonical.error}`);
    if (canonical.value !== path) return err(`${JSON.stringify(path.slice(0, 200))} is not in its one spelling`);
    if (paths.has(path)) return err(`${JSON.stringify(path)} is there twice`);
    paths.add(path);
    folded.add(path.toLowerCase());
  }
  if (process.platform !== "linux" && folded.size !== paths.size) {
    return err("two names differ only in case, which this file system cannot keep apart");
  }
  const folder = fileUsedAsFolder(paths);
  return folder === null ? ok(undefined) : err(`${JSON.stringify(folder)} is a file and a folder`);
}

/** Bytes to fetch: each content once, however many names it has. */
export function distinctContents(files: readonly ManifestFile[]): ManifestFile[] {
  return [...new Map(files.map((file) => [file.sha256, file])).values()];
}
