import { describe, it } from "vitest";
import {
  DEFAULT_MULTIPART_LIMITS,
  MultipartError,
  type MultipartLimits,
  multipartBoundary,
  parseMultipart,
} from "../../../src/http/multipart.ts";
import { concatenate } from "../../../src/shared/memory.ts";

type Seen = { name: string; filename: string | null; contentType: string | null; bytes: Uint8Array };

const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes);

const streamOf = (chunks: Uint8Array[], onCancel: () => void = () => undefined) => {
  let next = 0;
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const chunk = chunks[next++];
        if (chunk) controller.enqueue(chunk);
        else controller.close();
      },
      cancel: onCancel,
    },
    { highWaterMark: 0 },
  );
};

async function readAll(
  chunks: Uint8Array[],
  boundary: string,
  limits: MultipartLimits = DEFAULT_MULTIPART_LIMITS,
): Promise<Seen[]> {
  const seen: Seen[] = [];
  for await (const part of parseMultipart(streamOf(chunks), boundary, limits)) {
    const pieces: Uint8Array[] = [];
    for await (const chunk of part.body) pieces.push(chunk.slice());
    seen.push({ name: part.name, filename: part.filename, contentType: part.contentType, bytes: concatenate(pieces) });
  }
  return seen;
}

/** The error of a body, or undefined when it is read to its end. */
async function refusal(
  chunks: Uint8Array[],
  boundary: string,
  limits?: MultipartLimits,
): Promise<MultipartError | undefined> {
  try {
    await readAll(chunks, boundary, limits);
    return undefined;
  } catch (error) {
    if (error instanceof MultipartError) return error;
    throw error;
  }
}

const part = (disposition: string, content: string | Uint8Array, boundary = "XX", more = "") =>
  concatenate([
    encode(`--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\n${more}\r\n`),
    typeof content === "string" ? encode(content) : content,
    encode("\r\n"),
  ]);

const form = (...parts: Uint8Array[]) => concatenate([...parts, encode("--XX--\r\n")]);

describe("a multipart body", () => {
  // Content that looks like the delimiter in every way short of being it.
  const tricky = "\r\n--X\r\r\n\r\n--\r\n-\r\n--Xx\n--XX\r--XX\r\n";
  const body = form(
    part('name="name"', "My Dataset"),
    part('name="files"; filename="train/0/1.png"', encode(tricky), "XX", "Content-Type: image/png\r\n"),
    part('name="empty"; filename="e.txt"', ""),
    part('name="last"', "\r\n"),
  );
  const expected = [
    ["name", null, null, "My Dataset"],
    ["files", "train/0/1.png", "image/png", tricky],
    ["empty", "e.txt", null, ""],
    ["last", null, null, "\r\n"],
  ];
  const shown = (parts: Seen[]) => parts.map((p) => [p.name, p.filename, p.contentType, decode(p.bytes)]);

  it("is read the same at every place where it can be cut into two chunks", async ({ expect }) => {
    for (let cut = 0; cut <= body.length; cut++) {
      expect(shown(await readAll([body.subarray(0, cut), body.subarray(cut)], "XX")), `cut at ${cut}`).toEqual(
        expected,
      );
    }
  });

  it("is read the same in chunks of every size from 1 byte on", async ({ expect }) => {
    for (let size = 1; size <= 40; size++) {
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < body.length; at += size) chunks.push(body.subarray(at, at + size));
      expect(shown(await readAll(chunks, "XX")), `chunks of ${size}`).toEqual(expected);
    }
  });

  it("is read the same from a byte stream, whose readers lend one buffer, in chunks of every size", async ({
    expect,
  }) => {
    for (let size = 1; size <= 40; size++) {
      let at = 0;
      const stream = new ReadableStream({
        type: "bytes",
        pull(controller) {
          const chunk = body.slice(at, at + size);
          at += chunk.length;
          if (chunk.length > 0) controller.enqueue(chunk);
          else {
            controller.close();
            controller.byobRequest?.respond(0);
          }
        },
      });
      const seen: Seen[] = [];
      for await (const { name, filename, contentType, body: content } of parseMultipart(stream, "XX")) {
        const pieces: Uint8Array[] = [];
        for await (const chunk of content) pieces.push(chunk.slice());
        seen.push({ name, filename, contentType, bytes: concatenate(pieces) });
      }
      expect(shown(seen), `chunks of ${size}`).toEqual(expected);
    }
  });

  it("made by the platform's own FormData comes back as it went in", async ({ expect }) => {
    const bytes = new Uint8Array(100_000).map((_, i) => (i * 7919) & 255);
    const data = new FormData();
    data.append("name", '따옴표 " 와 \\ 그리고 이모지 🍅');
    data.append("files", new File([bytes], "기차/고양이 1.png", { type: "image/png" }));
    data.append("files", new File([], 'a"b.txt'));
    const request = new Request("http://x/", { method: "POST", body: data });
    const boundary = multipartBoundary(request.headers.get("content-type"));
    const seen = await readAll([new Uint8Array(await request.arrayBuffer())], boundary ?? "");
    expect(seen.map((p) => [p.name, p.filename])).toEqual([
      ["name", null],
      ["files", "기차/고양이 1.png"],
      ["files", 'a"b.txt'],
    ]);
    expect(new TextDecoder().decode(seen[0]?.bytes)).toBe('따옴표 " 와 \\ 그리고 이모지 🍅');
    expect(seen[1]?.bytes).toEqual(bytes);
    expect(seen[2]?.bytes).toHaveLength(0);
  });

  it("is read from a byte stream through large reads", async ({ expect }) => {
    const request = new Request("http://x/", { method: "POST", body: body.slice() });
    const seen: string[] = [];
    if (!request.body) throw new Error("no body");
    for await (const p of parseMultipart(request.body, "XX")) seen.push(`${p.name}=${(await p.text(100)).length}`);
    expect(seen).toEqual(["name=10", `files=${tricky.length}`, "empty=0", "last=2"]);
  });

  it("may leave out the preamble's line break, pad its boundary lines, and carry a preamble and an epilogue", async ({
    expect,
  }) => {
    const padded = encode(
      'before\r\n--XX \t\r\ncontent-disposition:form-data;name="a"\r\n\r\n1\r\n--XX--\r\nafter all of this',
    );
    expect(shown(await readAll([padded], "XX"))).toEqual([["a", null, null, "1"]]);
  });

  it("goes on at the right place when the caller leaves parts unread or half read", async ({ expect }) => {
    const names: string[] = [];
    for await (const p of parseMultipart(streamOf([body]), "XX")) {
      names.push(p.name);
      if (p.name === "files") for await (const _ of p.body) break;
    }
    expect(names).toEqual(["name", "files", "empty", "last"]);
  });

  it("is cancelled when the caller stops", async ({ expect }) => {
    let cancelled = 0;
    const chunks = [body.subarray(0, 100), body.subarray(100)];
    for await (const _ of parseMultipart(
      streamOf(chunks, () => cancelled++),
      "XX",
    ))
      break;
    expect(cancelled).toBe(1);
  });

  it("is read on to its end, within the limit, when it is refused, so that a sender hears the answer", async ({
    expect,
  }) => {
    const chunks = Array.from({ length: 50 }, () => new Uint8Array(1_000));
    for (const [maxDrainBytes, expected] of [
      [0, { cancelled: 1, ended: false }],
      [10_000, { cancelled: 1, ended: false }],
      [100_000, { cancelled: 0, ended: true }],
    ] as const) {
      const seen = { cancelled: 0, ended: false };
      let next = 0;
      const stream = new ReadableStream<Uint8Array>(
        {
          pull(controller) {
            const chunk = next === 0 ? encode("no boundary here") : chunks[next];
            next++;
            if (chunk) controller.enqueue(chunk);
            else {
              seen.ended = true;
              controller.close();
            }
          },
          cancel: () => {
            seen.cancelled++;
          },
        },
        { highWaterMark: 0 },
      );
      const reading = async () => {
        for await (const _ of parseMultipart(stream, "XX", { ...DEFAULT_MULTIPART_LIMITS, maxDrainBytes }));
      };
      await expect(reading()).rejects.toMatchObject({ reason: "malformed" });
      expect(seen, `drain ${maxDrainBytes}`).toEqual(expected);
    }
  });

  it("of no parts has none", async ({ expect }) => {
    expect(await readAll([encode("--XX--")], "XX")).toEqual([]);
  });
});

describe("memory", () => {
  it("stays at one chunk however large a file is", async ({ expect }) => {
    const chunkBytes = 64 * 1024;
    const chunks = 1_600;
    const head = encode('--XX\r\nContent-Disposition: form-data; name="files"; filename="big.zip"\r\n\r\n');
    let produced = 0;
    let consumed = 0;
    let mostHeld = 0;
    let sent = -1;
    const stream = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          sent++;
          const chunk =
            sent === 0 ? head : sent <= chunks ? new Uint8Array(chunkBytes).fill(sent & 255) : encode("\r\n--XX--\r\n");
          produced += chunk.length;
          mostHeld = Math.max(mostHeld, produced - consumed);
          controller.enqueue(chunk);
          if (sent > chunks) controller.close();
        },
      },
      { highWaterMark: 0 },
    );
    let length = 0;
    for await (const p of parseMultipart(stream, "XX", { ...DEFAULT_MULTIPART_LIMITS, maxTotalBytes: 2 ** 30 })) {
      for await (const chunk of p.body) {
        length += chunk.length;
        consumed = head.length + length;
      }
    }
    expect(length).toBe(chunks * chunkBytes);
    expect(mostHeld).toBeLessThan(3 * chunkBytes);
  });
});

describe("a broken body", () => {
  it("cut anywhere is reported as cut off and never read as complete", async ({ expect }) => {
    const body = form(part('name="a"', "1"), part('name="files"; filename="f"', "content"));
    for (let length = 0; length < body.length - 2; length++) {
      const error = await refusal([body.subarray(0, length)], "XX");
      expect(error?.reason, `after ${length} bytes`).toBe("cut_off");
    }
  });

  it("of a client that goes away is reported as cut off", async ({ expect }) => {
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(encode('--XX\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\nab'));
        controller.error(new Error("connection reset"));
      },
    });
    const reading = async () => {
      for await (const p of parseMultipart(stream, "XX")) await p.text(10);
    };
    await expect(reading()).rejects.toMatchObject({ reason: "cut_off" });
  });

  const malformed: [string, string][] = [
    ["another boundary", '--YY\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--YY--'],
    ["text after a boundary", '--XXY\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--XX--'],
    ["no disposition", "--XX\r\nContent-Type: text/plain\r\n\r\n1\r\n--XX--"],
    ["no header at all", "--XX\r\n\r\n1\r\n--XX--"],
    ["another disposition", '--XX\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n--XX--'],
    ["no name", "--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--"],
    ["a name given twice", '--XX\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\n1\r\n--XX--'],
    [
      "a header given twice",
      '--XX\r\nContent-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="b"\r\n\r\n1\r\n--XX--',
    ],
    ["a header without a colon", "--XX\r\nContent-Disposition\r\n\r\n1\r\n--XX--"],
    ["an unclosed quote", '--XX\r\nContent-Disposition: form-data; name="a\r\n\r\n1\r\n--XX--'],
    [
      "a name* that is not UTF-8",
      "--XX\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''%ff\r\n\r\n1\r\n--XX--",
    ],
    ["a 2 KB preamble", `${"x".repeat(2_000)}\r\n--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--XX--`],
  ];
  for (const [what, text] of malformed) {
    it(`with ${what} is malformed`, async ({ expect }) => {
      expect((await refusal([encode(text)], "XX"))?.reason).toBe("malformed");
    });
  }

  it("with headers that are not UTF-8 is malformed", async ({ expect }) => {
    const body = concatenate([
      encode('--XX\r\nContent-Disposition: form-data; name="a'),
      new Uint8Array([0xc0, 0xae]),
      encode('"\r\n\r\n1\r\n--XX--'),
    ]);
    expect((await refusal([body], "XX"))?.reason).toBe("malformed");
  });
});

describe("limits", () => {
  const limits: MultipartLimits = { maxParts: 3, maxHeaderBytes: 200, maxTotalBytes: 2_000, maxDrainBytes: 0 };

  it("let exactly the allowed number of parts through and refuse one more", async ({ expect }) => {
    const parts = (count: number) => form(...Array.from({ length: count }, (_, i) => part(`name="f${i}"`, "1")));
    expect(await refusal([parts(3)], "XX", limits)).toBeUndefined();
    expect((await refusal([parts(4)], "XX", limits))?.reason).toBe("limit");
  });

  it("stop a 1 MB part header after its limit, in one chunk and in many", async ({ expect }) => {
    const body = part(`name="${"n".repeat(1_000_000)}"`, "1");
    const wide = { ...limits, maxTotalBytes: 10_000_000 };
    expect((await refusal([body], "XX", wide))?.reason).toBe("limit");
    let pulled = 0;
    const stream = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          controller.enqueue(body.subarray(pulled, pulled + 100));
          pulled += 100;
        },
      },
      { highWaterMark: 0 },
    );
    const reading = async () => {
      for await (const p of parseMultipart(stream, "XX", wide)) await p.text(10);
    };
    await expect(reading()).rejects.toMatchObject({ reason: "limit" });
    expect(pulled).toBeLessThan(1_000);
  });

  it("stop a body above its size without an announced length", async ({ expect }) => {
    const body = form(part('name="files"; filename="f"', new Uint8Array(3_000)));
    const chunks = [body.subarray(0, 1_500), body.subarray(1_500)];
    expect((await refusal(chunks, "XX", limits))?.reason).toBe("too_large");
  });

  it("stop a text field above its size, and one that is not UTF-8", async ({ expect }) => {
    const read = async (content: string | Uint8Array) => {
      for await (const p of parseMultipart(streamOf([form(part('name="a"', content))]), "XX")) return await p.text(4);
    };
    expect(await read("1234")).toBe("1234");
    await expect(read("12345")).rejects.toMatchObject({ reason: "limit" });
    await expect(read(new Uint8Array([0xff]))).rejects.toMatchObject({ reason: "malformed" });
  });

  it("keep the search for the boundary linear on content made of near-matches", async ({ expect }) => {
    const boundary = "a".repeat(70);
    const near = encode(`\r\n--${"a".repeat(69)}b`.repeat(40_000));
    const body = concatenate([part('name="files"; filename="f"', near, boundary), encode(`--${boundary}--`)]);
    const started = performance.now();
    const seen = await readAll([body], boundary);
    expect(seen[0]?.bytes).toHaveLength(near.length);
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});

describe("a file name", () => {
  const nameOf = async (disposition: string) => (await readAll([form(part(disposition, "1"))], "XX"))[0]?.filename;

  it("keeps its folders, and quotes as browsers and as curl write them", async ({ expect }) => {
    expect(await nameOf('name="f"; filename="train/cat/1.png"')).toBe("train/cat/1.png");
    expect(await nameOf('name="f"; filename="a%22b.png"')).toBe('a"b.png');
    expect(await nameOf('name="f"; filename="a\\"b.png"')).toBe('a"b.png');
    expect(await nameOf('name="f"; filename="50%25 %2e%2e%2f.png"')).toBe("50%25 %2e%2e%2f.png");
    expect(await nameOf("name=f; filename=plain.png;")).toBe("plain.png");
    expect(await nameOf('name="f"; filename=""')).toBe("");
  });

  it("in the extended form wins over the plain one", async ({ expect }) => {
    expect(await nameOf("name=f; filename=\"x.png\"; filename*=UTF-8'ko'%ED%95%9C%EA%B8%80.png")).toBe("한글.png");
  });
});

describe("the boundary", () => {
  it("is found in the header, quoted or not", ({ expect }) => {
    expect(multipartBoundary("multipart/form-data; boundary=abc")).toBe("abc");
    expect(multipartBoundary('Multipart/Form-Data; charset=utf-8; Boundary="a b:c"')).toBe("a b:c");
  });

  it("is not looked for in another type", ({ expect }) => {
    expect(multipartBoundary(undefined)).toBeNull();
    expect(multipartBoundary("")).toBeNull();
    expect(multipartBoundary("application/json")).toBeNull();
    expect(multipartBoundary("multipart/mixed; boundary=abc")).toBeNull();
  });

  for (const header of [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="ends with space "',
    "multipart/form-data; boundary=a; boundary=b",
    `multipart/form-data; boundary=${"a".repeat(71)}`,
    `multipart/form-data; boundary=${"a".repeat(1_000_000)}`,
    'multipart/form-data; boundary="한글"',
    'multipart/form-data; boundary="a\r\nb"',
  ]) {
    it(`is refused in ${JSON.stringify(header.slice(0, 60))}`, ({ expect }) => {
      expect(() => {
        if (multipartBoundary(header) === null) throw new MultipartError("malformed", "not multipart");
      }).toThrow(MultipartError);
    });
  }
});
