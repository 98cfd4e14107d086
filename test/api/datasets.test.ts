import { env, exports } from "cloudflare:workers";
import { describe, it } from "vitest";
import { projects } from "../../src/db/schema/index.ts";
import { sha256Hex } from "../../src/shared/ids.ts";
import { concatenate } from "../../src/shared/memory.ts";
import { DatasetListSchema, DatasetSchema } from "../../src/training/datasets/schemas.ts";
import { type Answer, call, db, type Json, join, type Person, person } from "../support/api.ts";
import { type MadeEntry, makeZip } from "../support/make-zip.ts";

const PATH = "/api/v1/datasets";
const encode = (text: string) => new TextEncoder().encode(text);

/** Bytes that begin like a PNG and differ by number. */
const png = (number: number) =>
  concatenate([Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), encode(`#${number}`)]);

const PETS: [string, Uint8Array][] = [
  ["train/cat/1.png", png(1)],
  ["train/cat/2.png", png(2)],
  ["train/dog/3.png", png(3)],
  ["val/dog/4.png", png(4)],
];

type Fields = Record<string, string | undefined>;
const FIELDS: Fields = {
  name: "My Dataset",
  description: "Description here",
  format: "imagefolder",
  visibility: "private",
};

function form(fields: Fields, files: [string, Uint8Array | string][], order: "first" | "last" = "first"): FormData {
  const data = new FormData();
  const appendFields = () => {
    for (const [name, value] of Object.entries(fields)) if (value !== undefined) data.append(name, value);
  };
  if (order === "first") appendFields();
  for (const [name, content] of files)
    data.append("files", new File([typeof content === "string" ? content : content.slice()], name));
  if (order === "last") appendFields();
  return data;
}

const upload = (by: Person, fields: Fields, files: [string, Uint8Array | string][], order?: "first" | "last") =>
  call(`POST`, PATH, { token: by.token, body: form({ project_id: String(by.projectId), ...fields }, files, order) });

const uploadZip = (by: Person, entries: MadeEntry[], fields: Fields = {}) =>
  upload(by, { ...FIELDS, ...fields }, [["data.zip", makeZip(entries)]]);

const zipOf = (files: [string, Uint8Array][]): MadeEntry[] => files.map(([name, content]) => ({ name, content }));

/** Everything that uploads leave: objects and rows. */
async function traces() {
  const [objects, rows, files] = await Promise.all([
    env.BUCKET.list({ prefix: "datasets/" }),
    env.DB.prepare("select count(*) as n from datasets").first<{ n: number }>(),
    env.DB.prepare("select count(*) as n from dataset_files").first<{ n: number }>(),
  ]);
  return { objects: objects.objects.map((object) => object.key), rows: rows?.n, files: files?.n };
}

/** Calls with a body that arrives as the given chunks. */
async function send(by: Person, boundary: string, chunks: Uint8Array[]): Promise<Answer> {
  let next = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const chunk = chunks[next++];
      if (chunk) controller.enqueue(chunk);
      else controller.close();
    },
  });
  const response = await exports.default.fetch(`http://localhost:8000${PATH}`, {
    method: "POST",
    headers: { authorization: `Bearer ${by.token}`, "content-type": `multipart/form-data; boundary=${boundary}` },
    body,
  });
  return { status: response.status, body: (await response.json()) as Json, headers: response.headers };
}

const rawPart = (disposition: string, content: string) =>
  encode(`--B\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n${content}\r\n`);

describe("POST /datasets", () => {
  it("creates a dataset from loose files and answers the contract's fields and more", async ({ expect }) => {
    const owner = await person();
    const answer = await upload(owner, FIELDS, PETS);
    expect(answer.status).toBe(201);
    const body = DatasetSchema.strict().parse(answer.body);
    expect(body).toMatchObject({
      name: "My Dataset",
      description: "Description here",
      format: "imagefolder",
      visibility: "private",
      project_id: owner.projectId,
      owner_id: owner.id,
      file_count: 4,
      total_size_bytes: 40,
      num_classes: 2,
      class_names: ["cat", "dog"],
      class_distribution: { cat: 2, dog: 2 },
      splits: { train: 3, val: 1, test: 0 },
      task_type: "image_classification",
      layout: "split_folders",
    });
    expect(body.warnings.map((warning) => warning.code)).toEqual(["few_samples"]);
    expect(body.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(body.created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    expect(body.updated_at).toBe(body.created_at);
    expect(answer.headers.get("cache-control")).toBe("private, no-store");
    const detail = await call("GET", `${PATH}/${body.id}`, { token: owner.token });
    expect([detail.status, detail.body]).toEqual([200, answer.body]);
  });

  it("creates the same content from a zip, in a folder of its own or not, and from loose files", async ({ expect }) => {
    const owner = await person();
    const wrapped = PETS.map(([name, content]): [string, Uint8Array] => [`pets/${name}`, content]);
    const answers = [
      await upload(owner, FIELDS, PETS),
      await upload(owner, FIELDS, [...PETS].reverse(), "last"),
      await upload(owner, FIELDS, wrapped),
      await uploadZip(owner, zipOf(PETS)),
      await uploadZip(owner, [{ name: "pets/" }, ...zipOf(wrapped), { name: "__MACOSX/._x", content: "x" }]),
      await uploadZip(
        owner,
        zipOf(PETS).map((entry) => ({ ...entry, method: 0, descriptor: true })),
      ),
    ];
    expect(answers.map((answer) => answer.status)).toEqual([201, 201, 201, 201, 201, 201]);
    const hashes = new Set(answers.map((answer) => answer.body.content_hash));
    const sorted = await Promise.all(
      PETS.map(async ([path, content]) => `${path}\0${await sha256Hex(content.slice())}\n`),
    );
    expect([...hashes]).toEqual([await sha256Hex(sorted.join(""))]);
    for (const answer of answers) {
      expect(answer.body).toMatchObject({
        file_count: 4,
        total_size_bytes: 40,
        class_distribution: { cat: 2, dog: 2 },
      });
    }
  });

  it("keeps each dataset in one object, however many files it has", async ({ expect }) => {
    const owner = await person();
    const loose = await upload(owner, FIELDS, PETS);
    const zip = await uploadZip(owner, zipOf(PETS));
    const keysOf = async (id: unknown) =>
      (await env.BUCKET.list({ prefix: `datasets/${id}/` })).objects.map((o) => o.key);
    expect(await keysOf(loose.body.id)).toEqual([`datasets/${loose.body.id}/files.bin`]);
    expect(await keysOf(zip.body.id)).toEqual([`datasets/${zip.body.id}/upload.zip`]);
  });

  it("reads dice from its annotation file, loose and zipped", async ({ expect }) => {
    const owner = await person();
    const document = {
      format_version: "1.0",
      task_type: "object_detection",
      classes: [
        { id: 0, name: "고양이" },
        { id: 1, name: "__proto__" },
      ],
      images: [1, 2].map((id) => ({
        id,
        file_name: `images/${id}.png`,
        width: 10,
        height: 10,
        split: id === 1 ? "train" : "val",
        annotations: [{ id: 1, class_id: id - 1, bbox: [1, 1, 2, 2], bbox_format: "xywh" }],
      })),
    };
    const files: [string, Uint8Array][] = [
      ["images/1.png", png(1)],
      ["annotations.json", encode(JSON.stringify(document))],
      ["images/2.png", png(2)],
    ];
    for (const answer of [
      await upload(owner, { ...FIELDS, format: "dice" }, files),
      await uploadZip(owner, zipOf(files), { format: "dice" }),
    ]) {
      expect(answer.status).toBe(201);
      expect(answer.body).toMatchObject({
        format: "dice",
        layout: "nested",
        task_type: "object_detection",
        file_count: 3,
        num_classes: 2,
        class_names: ["고양이", "__proto__"],
        splits: { train: 1, val: 1, test: 0 },
      });
      expect(JSON.stringify(answer.body.class_distribution)).toBe('{"고양이":1,"__proto__":1}');
    }
  });

  it("reads yolo and coco, loose and zipped", async ({ expect }) => {
    const owner = await person();
    const annotations = {
      images: [{ id: 1, file_name: "1.png", width: 10, height: 10 }],
      annotations: [{ id: 1, image_id: 1, category_id: 3, bbox: [1, 1, 2, 2] }],
      categories: [{ id: 3, name: "cat" }],
    };
    const datasets: [string, [string, Uint8Array][], Json][] = [
      [
        "yolo",
        [
          ["images/train/1.png", png(1)],
          ["images/val/2.png", png(2)],
          ["labels/train/1.txt", encode("1 0.5 0.5 0.2 0.2\n")],
          ["data.yaml", encode("names: [cat, dog]")],
        ],
        {
          num_classes: 2,
          class_distribution: { cat: 0, dog: 1 },
          splits: { train: 1, val: 1, test: 0 },
          file_count: 4,
        },
      ],
      [
        "coco",
        [
          ["images/1.png", png(1)],
          ["annotations/instances_train.json", encode(JSON.stringify(annotations))],
        ],
        { num_classes: 1, class_distribution: { cat: 1 }, splits: { train: 1, val: 0, test: 0 }, file_count: 2 },
      ],
    ];
    for (const [format, files, expected] of datasets) {
      for (const answer of [
        await upload(owner, { ...FIELDS, format }, files),
        await uploadZip(owner, zipOf(files), { format }),
      ]) {
        expect([answer.status, answer.body.task_type], JSON.stringify(answer.body)).toEqual([201, "object_detection"]);
        expect(answer.body).toMatchObject({ format, ...expected });
      }
    }
  });

  it("warns of images that are something else", async ({ expect }) => {
    const owner = await person();
    const answer = await upload(owner, FIELDS, [...PETS, ["train/cat/page.png", "<script>alert(1)</script>"]]);
    expect(answer.status).toBe(201);
    const warnings = answer.body.warnings as { code: string; message: string }[];
    expect(warnings.find((warning) => warning.code === "not_an_image")?.message).toContain("train/cat/page.png");
  });

  it("reads Korean names of a Windows zip and says so", async ({ expect }) => {
    const owner = await person();
    const name = (last: number) =>
      Uint8Array.from([0xb0, 0xed, 0xbe, 0xe7, 0xc0, 0xcc, 0x2f, 0x30 + last, 0x2e, 0x70, 0x6e, 0x67]);
    const answer = await uploadZip(owner, [
      { name: name(1), content: png(1) },
      { name: "dog/2.png", content: png(2) },
    ]);
    expect(answer.status).toBe(201);
    expect(answer.body.class_names).toEqual(["dog", "고양이"]);
    expect(JSON.stringify(answer.body.warnings)).toContain("name_encoding");
  });

  it("without project_id uses the caller's own default project, and private when nothing is said", async ({
    expect,
  }) => {
    const owner = await person();
    const answer = await call("POST", PATH, {
      token: owner.token,
      body: form({ name: "  trimmed  ", format: "imagefolder" }, PETS),
    });
    expect(answer.body).toMatchObject({
      name: "trimmed",
      description: null,
      visibility: "private",
      project_id: owner.projectId,
    });
  });

  it("ignores fields that are not for the caller to set", async ({ expect }) => {
    const owner = await person();
    const extra = {
      owner_id: "1",
      id: "mine",
      status: "x",
      created_at: "2020",
      __proto__x: "1",
      constructor: "x",
      file_count: "9",
    };
    const data = form({ ...FIELDS, ...extra }, PETS);
    data.append("__proto__", "polluted");
    data.append("a.b.c.".repeat(500), "deep");
    const answer = await call("POST", PATH, { token: owner.token, body: data });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({ owner_id: owner.id, file_count: 4 });
    expect(answer.body.id).not.toBe("mine");
    expect(({} as Json).polluted).toBeUndefined();
  });

  it("streams a body of several R2 parts whose length nobody announced", async ({ expect }) => {
    const owner = await person();
    const chunk = new Uint8Array(1024 * 1024).map((_, i) => i & 255);
    const head = concatenate([
      rawPart('name="name"', "big"),
      rawPart('name="format"', "imagefolder"),
      rawPart('name="files"; filename="a/1.png"', "x"),
      encode('--B\r\nContent-Disposition: form-data; name="files"; filename="b/big.png"\r\n\r\n'),
    ]);
    const answer = await send(owner, "B", [head, ...Array.from({ length: 20 }, () => chunk), encode("\r\n--B--\r\n")]);
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({ file_count: 2, total_size_bytes: 20 * chunk.length + 1 });
    const stored = await env.BUCKET.head(`datasets/${answer.body.id}/files.bin`);
    expect(stored?.size).toBe(20 * chunk.length + 1);
  });
});

describe("an upload that is refused leaves nothing behind", () => {
  const dice = (document: unknown): [string, string | Uint8Array][] => [
    ["annotations.json", typeof document === "string" ? document : JSON.stringify(document)],
    ["images/1.png", png(1)],
  ];
  const zip = (entries: MadeEntry[]): [string, Uint8Array][] => [["d.zip", makeZip(entries)]];
  const pets = zipOf(PETS);

  const cases: [string, Fields, [string, string | Uint8Array][], number, string | null, string][] = [
    ["no name", { name: undefined }, PETS, 422, "name", "is required"],
    ["blank name", { name: "   " }, PETS, 422, "name", ""],
    ["long name", { name: "n".repeat(201) }, PETS, 422, "name", ""],
    ["long description", { description: "d".repeat(10_001) }, PETS, 422, "description", ""],
    ["endless field", { description: "d".repeat(70_000) }, PETS, 422, "files", "longer than"],
    ["no format", { format: undefined }, PETS, 422, "format", "must be one of"],
    ["unknown format", { format: "pascal_voc" }, PETS, 422, "format", "must be one of dice, yolo, imagefolder, coco"],
    ["unknown visibility", { visibility: "organization" }, PETS, 422, "visibility", ""],
    ["project id 1.0", { project_id: "1.0" }, PETS, 422, "project_id", ""],
    ["project id -1", { project_id: "-1" }, PETS, 422, "project_id", ""],
    ["project id 0", { project_id: "0" }, PETS, 422, "project_id", ""],
    ["project id of 400 digits", { project_id: "9".repeat(400) }, PETS, 422, "project_id", ""],
    ["project id in Arabic digits", { project_id: "١" }, PETS, 422, "project_id", ""],
    ["unknown project", { project_id: "999999999" }, PETS, 404, "project_id", "Project not found"],
    ["no files", {}, [], 422, "files", "at least one file"],
    ["only an empty file input", {}, [["", ""]], 422, "files", "at least one file"],
    ["only litter", {}, [[".DS_Store", "x"]], 422, "format", "no image"],
    [
      "the same name twice",
      {},
      [...PETS, ["train/cat/1.png", png(9)]],
      422,
      "files",
      '"train/cat/1.png" is sent twice',
    ],
    [
      "one name in two Unicode forms",
      {},
      [
        ["é/1.png", png(1)],
        ["e\u0301/1.png", png(2)],
      ],
      422,
      "files",
      "is sent twice",
    ],
    ["a name as file and folder", {}, [...PETS, ["train/cat", "x"]], 422, "files", "both a file and a folder"],
    ["a climbing name", {}, [...PETS, ["../../evil.png", "x"]], 422, "files", '"../../evil.png" leads out'],
    ["an absolute name", {}, [...PETS, ["/etc/passwd", "x"]], 422, "files", "is absolute"],
    ["a backslash", {}, [...PETS, ["..\\evil.png", "x"]], 422, "files", "backslash"],
    ["a drive", {}, [...PETS, ["C:/evil.png", "x"]], 422, "files", "drive letter"],
    ["a 16 KB name", {}, [...PETS, ["n".repeat(15_000), "x"]], 422, "files", "longer than"],
    ["a folder of another format", { format: "dice" }, PETS, 422, "format", "dice needs annotations.json"],
    ["dice said to be an image folder", {}, dice({}), 422, "format", "belongs to another format"],
    [
      "a broken annotation file",
      { format: "dice" },
      dice('{"classes": [\n{"id": NaN}]}'),
      422,
      "files",
      "annotations.json line 2",
    ],
    [
      "an annotation file that is not UTF-8",
      { format: "dice" },
      [
        ["annotations.json", Uint8Array.of(0xff, 0xfe)],
        ["images/1.png", png(1)],
      ],
      422,
      "files",
      "is not UTF-8 text",
    ],
    ["two zips", {}, [...zip(pets), ...zip(pets)], 422, "files", "either one zip or loose files"],
    ["a zip after loose files", {}, [...PETS, ...zip(pets)], 422, "files", "either one zip or loose files"],
    ["loose files after a zip", {}, [...zip(pets), ...PETS], 422, "files", "either one zip or loose files"],
    ["a zip that is none", {}, [["d.zip", "hello"]], 422, "files", "not a zip"],
    ["an empty zip", {}, [["d.zip", ""]], 422, "files", "not a zip"],
    ["half a zip", {}, [["d.zip", makeZip(pets).subarray(0, 200)]], 422, "files", "not a zip"],
    [
      "a zip with a climbing entry",
      {},
      zip([...pets, { name: "../x.png", content: "1" }]),
      422,
      "files",
      '"../x.png" leads out',
    ],
    [
      "a zip with a link",
      {},
      zip([...pets, { name: "l", content: "/", externalAttributes: (0o120777 << 16) >>> 0 }]),
      422,
      "files",
      '"l" is a link',
    ],
    [
      "a zip with a wrong checksum",
      {},
      zip([...pets, { name: "c.png", content: "1", directory: { crc: 1 }, local: { crc: 1 } }]),
      422,
      "files",
      '"c.png" does not match its checksum',
    ],
    [
      "a zip that lies about a size",
      {},
      zip([...pets, { name: "s.png", content: new Uint8Array(9e6), directory: { size: 5 }, local: { size: 5 } }]),
      422,
      "files",
      '"s.png" unpacks to more',
    ],
    [
      "a zip with overlapping entries",
      {},
      zip([...pets, { name: "o.png", content: "1", directory: { offset: 0 } }]),
      422,
      "files",
      '"o.png" uses the same data',
    ],
    [
      "an encrypted zip",
      {},
      zip([...pets, { name: "e.png", content: "1", flags: 1 }]),
      422,
      "files",
      '"e.png" is encrypted',
    ],
    [
      "a zip of one class",
      {},
      zip([{ name: "a/1.png", content: png(1) }]),
      422,
      "format",
      "imagefolder needs at least two",
    ],
  ];

  it.for(cases)("%s", async ([, fields, files, status, field, message], { expect }) => {
    const owner = await person();
    const before = await traces();
    const merged = { ...FIELDS, project_id: String(owner.projectId), ...fields };
    for (const order of ["first", "last"] as const) {
      const answer = await call("POST", PATH, { token: owner.token, body: form(merged, files, order) });
      expect([answer.status, answer.body.field], JSON.stringify(answer.body)).toEqual([status, field]);
      expect(answer.body.detail).toContain(message);
      expect(answer.body.code).toBe(status === 404 ? "PROJECT_NOT_FOUND" : "VALIDATION_ERROR");
    }
    expect(await traces()).toEqual(before);
  });

  it("from somebody without a token, with a bad one, or of a user who is gone", async ({ expect }) => {
    const before = await traces();
    expect((await call("POST", PATH, { body: form(FIELDS, PETS) })).status).toBe(401);
    expect((await call("POST", PATH, { token: "x.y.z", body: form(FIELDS, PETS) })).status).toBe(401);
    const gone = await person();
    await env.DB.prepare("update users set disabled_at = 1 where id = ?").bind(gone.id).run();
    const answer = await upload(gone, FIELDS, PETS);
    expect([answer.status, answer.body.code]).toEqual([401, "UNAUTHORIZED"]);
    expect(await traces()).toEqual(before);
  });

  it("from a stranger (404) and from a viewer (403) of the project; an editor may", async ({ expect }) => {
    const [owner, stranger, viewer, editor] = [await person(), await person(), await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    await join(owner.projectId, editor.id, "editor");
    const before = await traces();
    const as = (by: Person) => upload(by, { ...FIELDS, project_id: String(owner.projectId) }, PETS);
    const [foreign, looking] = [await as(stranger), await as(viewer)];
    expect([foreign.status, foreign.body.code]).toEqual([404, "PROJECT_NOT_FOUND"]);
    expect([looking.status, looking.body.code]).toEqual([403, "FORBIDDEN"]);
    expect(await traces()).toEqual(before);
    const created = await as(editor);
    expect([created.status, created.body.owner_id]).toEqual([201, editor.id]);
  });

  it("when it is cut off anywhere", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const body = concatenate([
      rawPart('name="name"', "cut"),
      rawPart('name="format"', "imagefolder"),
      rawPart('name="files"; filename="a/1.png"', "x".repeat(100)),
      rawPart('name="files"; filename="b/1.png"', "x".repeat(100)),
      encode("--B--\r\n"),
    ]);
    // The last two bytes are the line break after the form, which may be missing.
    const places = Array.from({ length: 12 }, (_, i) => Math.floor((i * (body.length - 3)) / 11));
    for (const length of places) {
      const answer = await send(owner, "B", [body.subarray(0, length)]);
      expect([answer.status, answer.body.code], `after ${length} bytes`).toEqual([400, "BAD_REQUEST"]);
    }
    expect(await traces()).toEqual(before);
    expect((await send(owner, "B", [body])).status).toBe(201);
  });

  it("when several parts are already in storage", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const chunk = new Uint8Array(1024 * 1024);
    const head = concatenate([
      rawPart('name="name"', "cut"),
      rawPart('name="format"', "imagefolder"),
      encode('--B\r\nContent-Disposition: form-data; name="files"; filename="a/1.png"\r\n\r\n'),
    ]);
    const answer = await send(owner, "B", [head, ...Array.from({ length: 18 }, () => chunk)]);
    expect([answer.status, answer.body.code]).toEqual([400, "BAD_REQUEST"]);
    expect(await traces()).toEqual(before);
  });

  it("when it is not multipart, has no boundary, or a bad one", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const as = (contentType: string) =>
      call("POST", PATH, { token: owner.token, body: "{}", headers: { "content-type": contentType } });
    for (const [contentType, status] of [
      ["application/json", 415],
      ["text/plain", 415],
      ["multipart/mixed; boundary=B", 415],
      ["multipart/form-data", 400],
      [`multipart/form-data; boundary=${"b".repeat(71)}`, 400],
      [`multipart/form-data; boundary=${"b".repeat(8_000)}`, 400],
      ["multipart/form-data; boundary=B", 400],
    ] as const) {
      const answer = await as(contentType);
      expect(answer.status, contentType.slice(0, 60)).toBe(status);
      expect(Object.keys(answer.body).sort()).toEqual(["code", "detail", "field"]);
    }
    expect((await call("POST", PATH, { token: owner.token })).status).toBe(415);
    expect(await traces()).toEqual(before);
  });

  it("when a file comes under another name, a field twice, or files as text", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const base = [rawPart('name="name"', "n"), rawPart('name="format"', "imagefolder")];
    for (const [part, field] of [
      [rawPart('name="avatar"; filename="a.png"', "x"), "avatar"],
      [rawPart('name="__proto__"; filename="a.png"', "x"), "__proto__"],
      [rawPart('name="name"', "again"), "name"],
      [rawPart('name="files"', "no file"), "files"],
      [rawPart('name="files"; filename=""', "content without a name"), "files"],
    ] as const) {
      const answer = await send(owner, "B", [...base, part, encode("--B--")]);
      expect([answer.status, answer.body.field]).toEqual([422, field]);
    }
    expect(await traces()).toEqual(before);
  });

  it("by its first fields, while the rest is still read so that the sender hears the answer", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const head = concatenate([
      rawPart('name="name"', "n"),
      rawPart('name="format"', "imagefolder"),
      rawPart('name="project_id"', "999999999"),
      encode('--B\r\nContent-Disposition: form-data; name="files"; filename="big.zip"\r\n\r\n'),
    ]);
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent === 0) controller.enqueue(head);
        else if (sent <= 30) controller.enqueue(new Uint8Array(1024 * 1024));
        else controller.close();
        sent++;
      },
    });
    const response = await exports.default.fetch(`http://localhost:8000${PATH}`, {
      method: "POST",
      headers: { authorization: `Bearer ${owner.token}`, "content-type": "multipart/form-data; boundary=B" },
      body,
    });
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ code: "PROJECT_NOT_FOUND", field: "project_id" });
    expect(sent).toBeGreaterThan(30);
    expect(await traces()).toEqual(before);
  });

  it("of too many parts", async ({ expect }) => {
    const owner = await person();
    const before = await traces();
    const parts = Array.from({ length: 10_000 }, (_, i) => rawPart(`name="files"; filename="a/${i}.png"`, "x"));
    const fields = [rawPart('name="name"', "n"), rawPart('name="format"', "imagefolder")];
    const answer = await send(owner, "B", [concatenate([...fields, ...parts, encode("--B--")])]);
    expect([answer.status, answer.body.field]).toEqual([422, "files"]);
    expect(answer.body.detail).toContain("zip");
    const fieldsOnly = Array.from({ length: 100 }, (_, i) => rawPart(`name="f${i}"`, "x"));
    expect((await send(owner, "B", [concatenate([...fieldsOnly, encode("--B--")])])).status).toBe(422);
    expect(await traces()).toEqual(before);
  });

  it("of a body announced as larger than allowed", async ({ expect }) => {
    const owner = await person();
    const answer = await call("POST", PATH, {
      token: owner.token,
      body: form(FIELDS, PETS),
      headers: { "content-length": String(200 * 1024 * 1024) },
    });
    expect([answer.status, answer.body.code, answer.body.field]).toEqual([413, "PAYLOAD_TOO_LARGE", "files"]);
  });
});

describe("GET /datasets/{id}", () => {
  it("is for members of the project, whatever their role, and for everybody when it is public", async ({ expect }) => {
    const [owner, viewer, stranger] = [await person(), await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    const secret = (await upload(owner, FIELDS, PETS)).body.id;
    const open = (await upload(owner, { ...FIELDS, visibility: "public" }, PETS)).body.id;
    const statusFor = async (by: Person, id: unknown) =>
      (await call("GET", `${PATH}/${id}`, { token: by.token })).status;
    expect([
      await statusFor(owner, secret),
      await statusFor(viewer, secret),
      await statusFor(stranger, secret),
    ]).toEqual([200, 200, 404]);
    expect([await statusFor(owner, open), await statusFor(viewer, open), await statusFor(stranger, open)]).toEqual([
      200, 200, 200,
    ]);
  });

  it("answers a foreign dataset exactly like an unknown one", async ({ expect }) => {
    const [owner, stranger] = [await person(), await person()];
    const id = (await upload(owner, FIELDS, PETS)).body.id;
    const foreign = await call("GET", `${PATH}/${id}`, { token: stranger.token });
    const unknown = await call("GET", `${PATH}/00000000-0000-4000-8000-000000000000`, { token: stranger.token });
    expect(foreign.status).toBe(404);
    expect(foreign.body).toEqual({ detail: "Dataset not found", code: "DATASET_NOT_FOUND", field: null });
    expect(unknown.body).toEqual(foreign.body);
  });

  it.for(["1.0", "1e3", "-1", "0", "%20", "' or 1=1 --", "..%2f..", "%00", "a%2fb", "__proto__"])(
    "does not know %s",
    async (id, { expect }) => {
      const { token } = await person();
      const answer = await call("GET", `${PATH}/${id}`, { token });
      expect([404, 422]).toContain(answer.status);
    },
  );

  it("refuses an id of 400 characters, and callers without a token", async ({ expect }) => {
    const { token } = await person();
    const long = await call("GET", `${PATH}/${"9".repeat(400)}`, { token });
    expect([long.status, long.body.field]).toEqual([422, "dataset_id"]);
    expect((await call("GET", `${PATH}/x`)).status).toBe(401);
  });

  it("ends with the caller's account", async ({ expect }) => {
    const owner = await person();
    const id = (await upload(owner, FIELDS, PETS)).body.id;
    await env.DB.prepare("update users set token_version = 2 where id = ?").bind(owner.id).run();
    expect((await call("GET", `${PATH}/${id}`, { token: owner.token })).status).toBe(401);
    expect((await call("GET", PATH, { token: owner.token })).status).toBe(401);
  });
});

describe("GET /datasets", () => {
  it("pages through the caller's datasets, newest first, with the number of all", async ({ expect }) => {
    const owner = await person();
    const ids: unknown[] = [];
    for (let i = 0; i < 5; i++) ids.unshift((await upload(owner, { ...FIELDS, name: `n${i}` }, PETS)).body.id);
    const query = `project_id=${owner.projectId}`;
    const page = async (more: string) =>
      DatasetListSchema.strict().parse((await call("GET", `${PATH}?${query}${more}`, { token: owner.token })).body);
    const all = await page("");
    expect(all).toMatchObject({ total: 5, skip: 0, limit: 50 });
    expect(new Set(all.datasets.map((d) => d.id))).toEqual(new Set(ids));
    expect(Object.keys(all.datasets[0] ?? {})).toEqual(
      expect.arrayContaining(["id", "name", "format", "file_count", "num_classes", "created_at"]),
    );
    const [first, second, third] = [
      await page("&limit=2"),
      await page("&limit=2&skip=2"),
      await page("&limit=2&skip=4"),
    ];
    expect([...first.datasets, ...second.datasets, ...third.datasets].map((d) => d.id)).toEqual(
      all.datasets.map((d) => d.id),
    );
    expect(third).toMatchObject({ total: 5, skip: 4, limit: 2 });
    expect(await page("&skip=100")).toEqual({ datasets: [], total: 5, skip: 100, limit: 50 });
  });

  it("filters by format and by project", async ({ expect }) => {
    const owner = await person();
    const at = Date.now();
    const [other] = await db
      .insert(projects)
      .values({ ownerId: owner.id, name: "Other", createdAt: at, updatedAt: at })
      .returning();
    await env.DB.prepare("insert into project_members values (?, ?, 'owner', 0)").bind(other?.id, owner.id).run();
    await upload(owner, FIELDS, PETS);
    await upload(owner, { ...FIELDS, project_id: String(other?.id) }, PETS);
    const total = async (query: string) => (await call("GET", `${PATH}?${query}`, { token: owner.token })).body.total;
    expect(await total(`project_id=${owner.projectId}&format=imagefolder`)).toBe(1);
    expect(await total(`project_id=${other?.id}`)).toBe(1);
    expect(await total(`project_id=${owner.projectId}&format=coco`)).toBe(0);
    expect(await total("project_id=999999")).toBe(0);
  });

  it("shows nobody else's private datasets, in rows and in the total, also by naming their project", async ({
    expect,
  }) => {
    const [owner, stranger] = [await person(), await person()];
    const secret = (await upload(owner, FIELDS, PETS)).body.id;
    const open = (await upload(owner, { ...FIELDS, visibility: "public" }, PETS)).body.id;
    const seen = async (by: Person, query: string) => {
      const { body } = await call("GET", `${PATH}?${query}`, { token: by.token });
      return { ids: (body.datasets as Json[]).map((d) => d.id), total: body.total };
    };
    expect(await seen(stranger, `project_id=${owner.projectId}`)).toEqual({ ids: [open], total: 1 });
    const everything = await seen(stranger, "limit=500");
    expect(everything.ids).toContain(open);
    expect(everything.ids).not.toContain(secret);
    expect((await seen(owner, `project_id=${owner.projectId}`)).total).toBe(2);
  });

  it.for([
    ["limit=0", "limit"],
    ["limit=501", "limit"],
    ["limit=1e9", "limit"],
    ["limit=abc", "limit"],
    ["limit=-1", "limit"],
    ["skip=-1", "skip"],
    ["skip=1e12", "skip"],
    ["format=voc", "format"],
    ["format=constructor", "format"],
    ["project_id=1.0", "project_id"],
    ["project_id=abc", "project_id"],
    ["project_id=01", "project_id"],
    ["project_id=' or 1=1", "project_id"],
  ] as const)("refuses %s", async ([query, field], { expect }) => {
    const { token } = await person();
    const answer = await call("GET", `${PATH}?${query}`, { token });
    expect([answer.status, answer.body.code, answer.body.field]).toEqual([422, "VALIDATION_ERROR", field]);
  });

  it("is one statement that reads no table from end to end", async ({ expect }) => {
    const statements: string[] = [];
    const recording = new Proxy(env.DB, {
      get(target, key) {
        if (key !== "prepare") return Reflect.get(target, key);
        return (text: string) => {
          statements.push(text);
          return target.prepare(text);
        };
      },
    });
    const { createDatasetRepository } = await import("../../src/training/datasets/repository.ts");
    const repository = createDatasetRepository(recording);
    const caller = { userId: 1, tokenVersion: 1 };
    await repository.list(caller, { skip: 0, limit: 50 });
    await repository.list(caller, { projectId: 1, format: "dice", skip: 0, limit: 50 });
    await repository.find(caller, "x");
    await repository.filesAfter("x", 0, 10);
    await repository.file("x", 1);
    expect(statements).toHaveLength(5);
    for (const statement of statements) {
      const blanks = Array.from(statement.matchAll(/\?/g), () => 1);
      const plan = await env.DB.prepare(`explain query plan ${statement}`)
        .bind(...blanks)
        .all<{ detail: string }>();
      const scans = plan.results.map((row) => row.detail).filter((detail) => /^SCAN (?!\(|CONSTANT|me\b)/.test(detail));
      expect(scans, statement).toEqual([]);
    }
  });
});
