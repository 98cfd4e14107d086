import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, type Node, parseDocument, visit } from "yaml";
import { ok, type Result } from "../../../shared/result.ts";
import { brokenFile, classNamesProblem, firstDuplicate, listed, MAX_CLASSES } from "./summary.ts";
import type { FormatProblem, SplitName } from "./types.ts";

/** What a YOLO `data.yaml` says, as far as it matters here. */
export type DataYaml = {
  /** By class id. Null when only `nc` is given. */
  names: string[] | null;
  classCount: number | null;
  /** Keypoints per object and numbers per keypoint (2 or 3); pose datasets only. */
  keypoints: { count: number; dimensions: 2 | 3 } | null;
  /** Folders of each split, as written. */
  folders: { split: SplitName; folder: string }[];
};

const MAX_YAML_LENGTH = 1024 * 1024;

/**
 * Reads `data.yaml` with the plain schema of YAML 1.2: no tags, no anchors and aliases (they can expand without end), no
 * key twice. Whatever is wrong is told with its line.
 */
export function readDataYaml(file: string, text: string): Result<DataYaml, FormatProblem> {
  if (text.length > MAX_YAML_LENGTH) return brokenFile(`${file} is longer than ${MAX_YAML_LENGTH} characters`);
  const lines = new LineCounter();
  const document = parseDocument(text, { schema: "core", version: "1.2", uniqueKeys: true, lineCounter: lines });
  const at = (offset: number) => `${file} line ${lines.linePos(offset).line}`;
  const [problem] = [...document.errors, ...document.warnings];
  if (problem)
    return brokenFile(`${at(problem.pos[0])}: ${problem.message.split("\n")[0]?.replace(/ at line .*$/, "")}`);

  let forbidden: { offset: number; what: string } | null = null;
  visit(document, {
    Node(_key, node) {
      const tag = "tag" in node ? node.tag : undefined;
      const anchor = "anchor" in node ? node.anchor : undefined;
      const what =
        isAlias(node) || anchor
          ? "anchors and aliases are not read"
          : tag?.startsWith("!")
            ? "tags are not read"
            : null;
      if (what === null) return undefined;
      forbidden = { offset: node.range?.[0] ?? 0, what };
      return visit.BREAK;
    },
  });
  const found = forbidden as { offset: number; what: string } | null;
  if (found) return brokenFile(`${at(found.offset)}: ${found.what}`);

  const root = document.contents;
  if (!isMap(root)) return brokenFile(`${file}: a mapping with nc and names is expected`);
  const get = (key: string): Node | null => {
    const node = root.get(key, true);
    return isNode(node) && !(isScalar(node) && node.value === null) ? node : null;
  };
  const wrong = (node: Node, message: string) => brokenFile(`${at(node.range?.[0] ?? 0)}: ${message}`);

  const namesNode = get("names");
  const names = namesNode === null ? ok(null) : readNames(namesNode, wrong);
  if (!names.ok) return names;

  const countNode = get("nc");
  let classCount: number | null = null;
  if (countNode !== null) {
    classCount = numberOf(countNode);
    if (classCount === null || classCount < 1 || classCount > MAX_CLASSES) {
      return wrong(countNode, `nc is a number of classes from 1 to ${MAX_CLASSES}`);
    }
    if (names.value && names.value.length !== classCount) {
      return wrong(countNode, `nc is ${classCount}, but there are ${names.value.length} names`);
    }
  }

  const shapeNode = get("kpt_shape");
  let keypoints: DataYaml["keypoints"] = null;
  if (shapeNode !== null) {
    const [count, dimensions] = isSeq(shapeNode) ? shapeNode.items.map(numberOf) : [];
    if (!count || count > 1_000 || (dimensions !== 2 && dimensions !== 3)) {
      return wrong(shapeNode, "kpt_shape is [number of keypoints, 2 or 3]");
    }
    keypoints = { count, dimensions };
  }

  const folders: DataYaml["folders"] = [];
  for (const split of ["train", "val", "test"] as const) {
    const node = get(split);
    for (const item of isSeq(node) ? node.items : [node]) {
      if (isScalar(item) && typeof item.value === "string") folders.push({ split, folder: item.value });
    }
  }
  return ok({ names: names.value, classCount, keypoints, folders });
}

/** A list of names, or a mapping from class id to name that leaves no id out. */
function readNames(
  node: Node,
  wrong: (node: Node, message: string) => Result<never, FormatProblem>,
): Result<string[], FormatProblem> {
  const names: string[] = [];
  if (isSeq(node)) {
    for (const item of node.items) {
      const name = nameOf(item);
      if (name === null) return wrong(isNode(item) ? item : node, "a class name is a text");
      names.push(name);
    }
  } else if (isMap(node)) {
    const byId = new Map<number, string>();
    for (const { key, value } of node.items) {
      const id = numberOf(key);
      const name = nameOf(value);
      const place = isNode(key) ? key : node;
      if (id === null || id < 0) return wrong(place, "names are listed by class id");
      if (name === null) return wrong(place, "a class name is a text");
      byId.set(id, name);
    }
    for (let id = 0; id < byId.size; id++) {
      const name = byId.get(id);
      if (name === undefined) return wrong(node, `names leave out class ${id}`);
      names.push(name);
    }
  } else {
    return wrong(node, "names is a list, or a mapping from class id to name");
  }
  if (names.length === 0) return wrong(node, "no class names");
  const twice = firstDuplicate(names);
  if (twice !== undefined) return wrong(node, `the class name ${listed([twice])} is used twice`);
  const problem = classNamesProblem(names);
  return problem ? wrong(node, problem) : ok(names);
}

/** Digits and words such as `no` or `1` are names too, as they were written. */
function nameOf(node: unknown): string | null {
  if (!isScalar(node) || node.value === null) return null;
  return typeof node.value === "string" ? node.value : (node.source ?? String(node.value));
}

function numberOf(node: unknown): number | null {
  const value = isScalar(node) ? node.value : null;
  return typeof value === "number" && Number.isSafeInteger(value) ? value : null;
}
