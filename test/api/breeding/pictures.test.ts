import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import type { Phenotype } from "../../../src/breeding/genetics/traits.ts";
import { createPainter, type ImageModels } from "../../../src/breeding/images/painter.ts";
import { rasterize } from "../../../src/breeding/images/rasterizer.ts";
import { createPictureRepository } from "../../../src/breeding/images/repository.ts";
import { createPictureService } from "../../../src/breeding/images/service.ts";
import { decodePng } from "../../../src/training/inference/png.ts";
import { call, type Json, type Person, person } from "../../support/api.ts";
import { loadSamples, newStrainId, workerWith } from "../../support/breeding.ts";
import { type FixtureName, imageFixture, QUARTERS } from "../../support/images/fixtures.ts";

let user: Person;
let stranger: Person;
beforeAll(async () => {
  await loadSamples();
  [user, stranger] = await Promise.all([person(), person()]);
});

const fetchBytes = async (path: string, headers: Record<string, string> = {}, method = "GET") => {
  const response = await exports.default.fetch(`http://localhost:8000${path}`, { method, headers });
  return { status: response.status, headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
};

/** The hash of what is served: comparing it is faster than comparing the bytes. */
const tagOf = async (path: string) => (await fetchBytes(path, {}, "HEAD")).headers.get("etag");

/** Width, height and one pixel of a PNG. */
function pixels(png: Uint8Array) {
  const decoded = decodePng(png);
  if (!decoded.ok) throw new Error(decoded.error.message);
  const { width, height, data } = decoded.value;
  const channels = data.length / (width * height);
  const at = (x: number, y: number) =>
    [...data.subarray((y * width + x) * channels, (y * width + x) * channels + 3)] as number[];
  return { width, height, at };
}

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

const predict = async (femaleStrainId: string, maleStrainId: string) => {
  const body = { femaleStrainId, maleStrainId, options: { generateImage: true } };
  const answer = await call("POST", "/api/predictions", { body });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return answer.body.data as { generatedImages: string[]; images: Json[]; imageFallback?: Json };
};

const PHENOTYPE = {
  weight: 52.1,
  length: 43.2,
  width: 45.9,
  sugarContent: 5.6,
  firmness: 0.62,
  skinThickness: 5.1,
  shape: "round",
};

async function strain(id = newStrainId()): Promise<string> {
  const answer = await call("POST", "/api/strains", { token: user.token, body: { id, phenotype: PHENOTYPE } });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return id;
}

describe("pictures of a predicted cross", () => {
  it("are two PNGs, outside and cut, in the store under the contract's path", async ({ expect }) => {
    const { generatedImages, images } = await predict("TC1_026", "TC1_022");
    expect(images.map(({ url, view, engine }) => [url, view, engine])).toEqual([
      [generatedImages[0], "outside", "embedded"],
      [generatedImages[1], "section", "embedded"],
    ]);
    for (const url of generatedImages) {
      const stored = await env.BUCKET.head(url.slice(1));
      const served = await fetchBytes(url);
      expect(served.status).toBe(200);
      expect([...served.bytes.subarray(0, 8)]).toEqual(PNG_SIGNATURE);
      expect(served.bytes.length).toBe(stored?.size);
      const { width, height } = pixels(served.bytes);
      expect([width, height]).toEqual([640, 640]);
    }
    const [outside, section] = await Promise.all(generatedImages.map(tagOf));
    expect(outside).not.toBe(section);
  });

  it("are red fruit in the middle and paper at the rim", async ({ expect }) => {
    const { generatedImages } = await predict("TC1_026", "TC1_022");
    for (const url of generatedImages) {
      const { at } = pixels((await fetchBytes(url)).bytes);
      const [r = 0, g = 0, b = 0] = at(320, 420);
      expect(r).toBeGreaterThan(1.3 * Math.max(g, b));
      expect(Math.min(...at(5, 5))).toBeGreaterThan(200);
    }
  });

  it("keep their address as long as they look the same, and get the next number when they do not", async ({
    expect,
  }) => {
    const [mother, father] = [await strain(), await strain()];
    const numbers = (urls: string[]) => urls.map((url) => /_(\d+)\.png$/.exec(url)?.[1]);
    const first = await predict(mother, father);
    const same = await predict(mother, father);
    expect(same.generatedImages).toEqual(first.generatedImages);
    expect(numbers(first.generatedImages)).toEqual(["01", "02"]);
    const before = await Promise.all(first.generatedImages.map(tagOf));

    await call("PUT", `/api/strains/${mother}`, {
      token: user.token,
      body: { phenotype: { ...PHENOTYPE, weight: 300, length: 70, width: 90 } },
    });
    const other = await predict(mother, father);
    expect(numbers(other.generatedImages)).toEqual(["03", "04"]);
    expect(await Promise.all(first.generatedImages.map(tagOf))).toEqual(before);

    await call("PUT", `/api/strains/${mother}`, { token: user.token, body: { phenotype: PHENOTYPE } });
    expect((await predict(mother, father)).generatedImages).toEqual(first.generatedImages);
    // The reciprocal cross has other parents in its address and its own fruit.
    const back = await predict(father, mother);
    expect(numbers(back.generatedImages)).toEqual(["01", "02"]);
  });

  it("asked for many times at once are made once", async ({ expect }) => {
    const [mother, father] = [await strain(), await strain()];
    const all = await Promise.all(Array.from({ length: 5 }, () => predict(mother, father)));
    expect(new Set(all.map((one) => one.generatedImages.join())).size).toBe(1);
    const { objects } = await env.BUCKET.list({ prefix: "images/tomato/predictions/" });
    expect(objects.filter(({ key }) => key.includes(`cross_${father}_${mother}_`))).toHaveLength(2);
  });

  it("of two crosses whose ids run together share no address", async ({ expect }) => {
    const stem = newStrainId("U");
    const [a, ab, bc, c] = [stem, `${stem}_B`, `B_${stem}x`, `${stem}x`];
    for (const id of [a, ab, bc, c]) await strain(id);
    const one = await predict(c, ab);
    const two = await predict(bc, a);
    expect(new Set([...one.generatedImages, ...two.generatedImages]).size).toBe(4);
    expect(one.generatedImages[0]?.replace(/_\d+\.png$/, "")).toBe(two.generatedImages[0]?.replace(/_\d+\.png$/, ""));
  });

  it("that could not be stored are stored by the next prediction under the same address", async ({ expect }) => {
    const [mother, father] = [await strain(), await strain()];
    await predict("TC1_026", "TC1_022");
    const broken = new Proxy(env.BUCKET, {
      get: (target, name) => {
        if (name === "put") return () => Promise.reject(new Error("down"));
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const failed = await workerWith({ BUCKET: broken })("POST", "/api/predictions", {
      body: { maleStrainId: father, femaleStrainId: mother, options: { generateImage: true } },
    });
    expect(failed).toMatchObject({ status: 500, body: { error: "예측 생성에 실패했습니다" } });
    const { generatedImages } = await predict(mother, father);
    expect(generatedImages.map((url) => /_(\d+)\.png$/.exec(url)?.[1])).toEqual(["01", "02"]);
    for (const url of generatedImages) expect((await fetchBytes(url)).status).toBe(200);
  });
});

describe("GET /images/…", () => {
  it("serves with a strong tag, ranges and a year of caching, to anybody", async ({ expect }) => {
    const [url = ""] = (await predict("TC1_026", "TC1_022")).generatedImages;
    const whole = await fetchBytes(url);
    const etag = whole.headers.get("etag") ?? "";
    expect(etag).toMatch(/^"[0-9a-f]{64}"$/);
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      "content-type": "image/png",
      "accept-ranges": "bytes",
      "cache-control": "public, max-age=31536000, immutable",
      "x-content-type-options": "nosniff",
      "content-length": String(whole.bytes.length),
    });
    expect((await fetchBytes(url, { "if-none-match": etag })).status).toBe(304);
    const part = await fetchBytes(url, { range: "bytes=8-15" });
    expect(part.status).toBe(206);
    expect(part.headers.get("content-range")).toBe(`bytes 8-15/${whole.bytes.length}`);
    expect(part.bytes).toEqual(whole.bytes.slice(8, 16));
    const tail = await fetchBytes(url, { range: "bytes=-5" });
    expect(tail.bytes).toEqual(whole.bytes.slice(-5));
    const beyond = await fetchBytes(url, { range: `bytes=${whole.bytes.length}-` });
    expect(beyond.status).toBe(416);
    expect(JSON.parse(new TextDecoder().decode(beyond.bytes))).toMatchObject({ success: false });
    for (const range of ["bytes=5-2", "bytes=-0"]) expect((await fetchBytes(url, { range })).status).toBe(416);
    for (const range of ["lines=1-2", "bytes=x", "bytes=0-1,4-5"])
      expect((await fetchBytes(url, { range })).bytes.length).toBe(whole.bytes.length);
    const head = await fetchBytes(url, {}, "HEAD");
    expect([head.status, head.bytes.length, head.headers.get("etag")]).toEqual([200, 0, etag]);
  });

  it.for([
    "/images/tomato/predictions/2025/11/cross_TC1_022_TC1_099_01.png",
    "/images/tomato/predictions/2025/13/cross_TC1_022_TC1_023_01.png",
    "/images/tomato/predictions/2025/11/../../../../datasets/x/files.bin",
    "/images/tomato/predictions/2025/11/%2e%2e%2f%2e%2e%2f%2e%2e%2fbreeding%2fmodels%2fx.bin",
    "/images/tomato/predictions/2025/11/%252e%252e%252fx.png",
    "/images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_01.png%00.svg",
    "/images/tomato/predictions/2025/11/",
    "/images/tomato/predictions/2025//cross_TC1_022_TC1_023_01.png",
    "/images/tomato/strains/TC9_999.png",
    "/images/tomato/strains/TC1_022.svg",
    "/images/tomato/strains/TC1_022",
    "/images/tomato/strains/..%2f..%2f..%2fbreeding.png",
    "/images/tomato/strains/.png",
    "/images/potato/strains/TC1_022.png",
    "/images/",
    "/images/%E0%A4%A.png",
  ])("%s is not found", async (path, { expect }) => {
    const answer = await call(path.includes("datasets") ? "GET" : "GET", path);
    expect(answer.status).toBe(404);
    if (!path.includes("datasets"))
      expect(answer.body).toEqual({ success: false, error: expect.stringMatching(/[가-힣]/) });
  });

  it("knows no other method", async ({ expect }) => {
    for (const method of ["POST", "PUT", "DELETE"])
      expect((await call(method, "/images/tomato/strains/TC1_022.png", { token: user.token })).status).toBe(404);
  });
});

describe("the picture of a strain", () => {
  const upload = (id: string, body: Uint8Array, token = user.token) =>
    call("PUT", `/api/strains/${encodeURIComponent(id)}/image`, {
      token,
      body,
      headers: { "content-type": "image/png" },
    });
  const pictureOf = (id: string, headers = {}) =>
    fetchBytes(`/images/tomato/strains/${encodeURIComponent(id)}.png`, headers);
  const keysOf = async (id: string) =>
    (await env.BUCKET.list({ prefix: `images/tomato/strains/${id}/` })).objects.map((object) => object.key);

  it("is drawn on the first request, once, and follows the traits", async ({ expect }) => {
    const id = await strain();
    expect(await keysOf(id)).toHaveLength(0);
    const first = await pictureOf(id);
    const second = await pictureOf(id);
    expect(second.headers.get("etag")).toBe(first.headers.get("etag"));
    expect(await keysOf(id)).toHaveLength(1);
    expect(first.headers.get("cache-control")).toBe("public, max-age=300, must-revalidate");
    await call("PUT", `/api/strains/${id}`, {
      token: user.token,
      body: { phenotype: { ...PHENOTYPE, shape: "pear" } },
    });
    const changed = await pictureOf(id, { "if-none-match": first.headers.get("etag") ?? "" });
    expect(changed.status).toBe(200);
    expect(changed.headers.get("etag")).not.toBe(first.headers.get("etag"));
  });

  it("can be the owner's own, upright and without what the camera noted", async ({ expect }) => {
    const id = await strain(newStrainId("사진"));
    for (const n of [1, 3, 6, 8]) {
      const photo = imageFixture(`exif-${n}.jpg` as FixtureName);
      const answer = await upload(id, photo);
      expect(answer).toMatchObject({ status: 200, body: { data: { metadata: { imageSource: "uploaded" } } } });
      const { bytes, headers } = await pictureOf(id);
      expect(headers.get("content-type")).toBe("image/png");
      expect([...bytes.subarray(0, 8)]).toEqual(PNG_SIGNATURE);
      expect(new TextDecoder("latin1").decode(bytes)).not.toContain("Exif");
      const { width, height } = pixels(bytes);
      expect([width, height]).toEqual(n >= 5 ? [16, 24] : [24, 16]);
    }
    // One picture is kept, the newest.
    expect((await keysOf(id)).filter((key) => key.includes("upload-"))).toHaveLength(1);
    const back = await call("DELETE", `/api/strains/${encodeURIComponent(id)}/image`, { token: user.token });
    expect(back).toMatchObject({ status: 200, body: { data: { metadata: { imageSource: "rendered" } } } });
    expect(pixels((await pictureOf(id)).bytes).width).toBe(640);
  });

  it("shows the quarters where the file has them", async ({ expect }) => {
    const id = await strain();
    await upload(id, imageFixture("rgb.png"));
    const { at } = pixels((await pictureOf(id)).bytes);
    expect([at(3, 3), at(20, 3), at(3, 13)]).toEqual([QUARTERS.topLeft, QUARTERS.topRight, QUARTERS.bottomLeft]);
    await upload(id, imageFixture("exif-3.jpg"));
    const turned = pixels((await pictureOf(id)).bytes);
    const near = (a: number[], b: number[]) => a.every((value, i) => Math.abs(value - (b[i] ?? 0)) < 12);
    // exif-3 is stored as it is and shown upside down.
    expect(near(turned.at(20, 13), QUARTERS.topLeft)).toBe(true);
    expect(near(turned.at(3, 3), QUARTERS.bottomRight)).toBe(true);
  });

  it.for([
    ["a vector with a script", new TextEncoder().encode("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")],
    ["a page", new TextEncoder().encode("<html><script>alert(1)</script>")],
    ["nothing", new Uint8Array()],
    ["a GIF", imageFixture("small.gif")],
    ["half a PNG", imageFixture("rgb.png").slice(0, 60)],
    [
      "a PNG header and noise",
      Uint8Array.from([...imageFixture("rgb.png").slice(0, 40), ...new Uint8Array(500).fill(7)]),
    ],
    ["half a JPEG", imageFixture("baseline.jpg").slice(0, 200)],
    ["a file of 5 MiB", new Uint8Array(5 * 1024 * 1024).fill(0xff)],
  ] as const)("refuses %s and keeps the one it has", async ([, bytes], { expect }) => {
    const before = await tagOf("/images/tomato/strains/TC1_040.png");
    const keys = await keysOf("TC1_040");
    expect(await upload("TC1_040", bytes)).toMatchObject({
      status: 400,
      body: { success: false, error: expect.stringMatching(/[가-힣]/) },
    });
    expect(await tagOf("/images/tomato/strains/TC1_040.png")).toBe(before);
    expect(await keysOf("TC1_040")).toEqual(keys);
  });

  it("is the owner's to change, and goes with the strain", async ({ expect }) => {
    const id = await strain();
    expect((await upload(id, imageFixture("rgb.png"), stranger.token)).status).toBe(403);
    expect((await upload("TC9_999", imageFixture("rgb.png"))).status).toBe(404);
    expect(await keysOf(id)).toEqual([]);
    await upload(id, imageFixture("rgb.png"));
    const neighbour = await strain(`${id}0`);
    await pictureOf(neighbour);
    await call("DELETE", `/api/strains/${id}`, { token: user.token });
    expect((await pictureOf(id)).status).toBe(404);
    expect(await keysOf(id)).toEqual([]);
    expect(await keysOf(neighbour)).toHaveLength(1);
  });
});

describe("painting", () => {
  const phenotype: Phenotype = { ...PHENOTYPE, ratio: 0.94, shape: "round" };
  const jpeg = imageFixture("baseline.jpg");
  const answered = { image: btoa(String.fromCharCode(...jpeg)) };

  /** The service with a model that answers as its published schema says, and a budget. */
  function studio(run: ImageModels["run"], budget = 10) {
    let spent = 0;
    let calls = 0;
    const models: ImageModels = {
      run: (request, signal) => {
        calls++;
        return run(request, signal);
      },
    };
    const service = createPictureService({
      pictures: createPictureRepository(env.DB),
      bucket: env.BUCKET,
      rasterize,
      painter: {
        painter: createPainter(models, "@cf/black-forest-labs/flux-1-schnell", 50),
        budget: async () => {
          spent++;
          return spent <= budget;
        },
      },
      now: Date.now,
    });
    return { service, calls: () => calls };
  }

  const cross = () => ({ maleId: newStrainId("P"), femaleId: newStrainId("P"), phenotype });

  it("makes the outside view, the section stays drawn, and both are PNG", async ({ expect }) => {
    const { service } = studio(async () => answered);
    const drawn = await service.forCross(cross(), []);
    expect(drawn.fallback).toBeNull();
    expect(drawn.pictures.map(({ view, engine }) => [view, engine])).toEqual([
      ["outside", "@cf/black-forest-labs/flux-1-schnell"],
      ["section", "embedded"],
    ]);
    const painted = await fetchBytes(drawn.pictures[0]?.url ?? "");
    const { width, height, at } = pixels(painted.bytes);
    expect([width, height]).toEqual([640, 640]);
    // The square is filled: the quarters of the fixture, cut at the sides.
    expect(Math.abs((at(100, 100)[0] ?? 0) - (QUARTERS.topLeft[0] ?? 0))).toBeLessThan(15);
  });

  it("is paid for once per fruit: the second time it is there already", async ({ expect }) => {
    const { service, calls } = studio(async () => answered);
    const pair = cross();
    const first = await service.forCross(pair, []);
    const known = first.pictures.map((picture, i) => ({
      month: new Date().toISOString().slice(0, 7).replace("-", "/"),
      sequence: i + 1,
      contentKey: first.fresh[i] ?? "",
      view: picture.view,
      engine: picture.engine,
      stored: true,
    }));
    const second = await service.forCross(pair, known);
    expect(calls()).toBe(1);
    expect(second.pictures).toEqual(first.pictures);
    expect(second.fresh).toEqual([]);
  });

  it("falls back to drawing, and says why", async ({ expect }) => {
    const cases = [
      [() => new Promise(() => undefined), "timeout"],
      [() => Promise.reject(new Error("3040: no capacity")), "error"],
      [async () => ({}), "error"],
      [async () => ({ image: btoa("not a picture") }), "error"],
      [async () => ({ image: btoa(String.fromCharCode(...jpeg.slice(0, 250))) }), "error"],
    ] as const;
    for (const [run, reason] of cases) {
      const drawn = await studio(run as ImageModels["run"]).service.forCross(cross(), []);
      expect(drawn.fallback).toBe(reason);
      expect(drawn.pictures.map(({ engine }) => engine)).toEqual(["embedded", "embedded"]);
      expect((await fetchBytes(drawn.pictures[0]?.url ?? "")).status).toBe(200);
    }
  });

  it("stops at the daily budget", async ({ expect }) => {
    const { service, calls } = studio(async () => answered, 2);
    const fallbacks = [];
    for (let i = 0; i < 4; i++) fallbacks.push((await service.forCross(cross(), [])).fallback);
    expect(fallbacks).toEqual([null, null, "daily_budget", "daily_budget"]);
    expect(calls()).toBe(2);
  });

  it("is switched on by configuration and binding together, and the answer says what drew it", async ({ expect }) => {
    const [mother, father] = [await strain(), await strain()];
    const body = { maleStrainId: father, femaleStrainId: mother, options: { generateImage: true } };
    const seen: string[] = [];
    const AI = {
      run: async (model: string) => {
        seen.push(model);
        return seen.length === 1 ? answered : Promise.reject(new Error("429"));
      },
    };
    const off = await workerWith({ AI })("POST", "/api/predictions", { body });
    expect(off.body.data).toMatchObject({ images: [{ engine: "embedded" }, { engine: "embedded" }] });
    expect(seen).toEqual([]);

    const on = workerWith({ AI, IMAGE_ENGINE: "workers-ai", IMAGE_MODEL: "@cf/black-forest-labs/flux-2-klein-9b" });
    const painted = (await on("POST", "/api/predictions", { body })).body.data as Json;
    expect(painted).toMatchObject({
      images: [{ engine: "@cf/black-forest-labs/flux-2-klein-9b" }, { engine: "embedded" }],
    });
    expect(painted.imageFallback).toBeUndefined();
    const again = (await on("POST", "/api/predictions", { body })).body.data as Json;
    expect(again.generatedImages).toEqual(painted.generatedImages);
    expect(seen).toEqual(["@cf/black-forest-labs/flux-2-klein-9b"]);

    const other = { ...body, maleStrainId: mother, femaleStrainId: father };
    expect((await on("POST", "/api/predictions", { body: other })).body.data).toMatchObject({
      images: [{ engine: "embedded" }, { engine: "embedded" }],
      imageFallback: { reason: "error", message: expect.stringMatching(/[가-힣]/) },
    });
    const spent = workerWith({ AI, IMAGE_ENGINE: "workers-ai", IMAGE_DAILY_BUDGET: "0" });
    const third = { ...body, maleStrainId: "TC1_022" };
    expect((await spent("POST", "/api/predictions", { body: third })).body.data).toMatchObject({
      imageFallback: { reason: "daily_budget" },
    });
    expect(seen).toHaveLength(2);
  });
});
