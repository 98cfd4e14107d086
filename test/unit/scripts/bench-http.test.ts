import { createServer } from "node:http";
import { describe, it } from "vitest";
import { AnswerReader, Connection, expectStatus, jsonOf } from "../../../scripts/bench/http.ts";

const bytes = (text: string) => Buffer.from(text, "utf8");
const textOf = (answer: { body: Buffer } | null) => answer?.body.toString("utf8");

describe("the reader of one answer", () => {
  it("takes a body of a known length in one piece", ({ expect }) => {
    const answer = new AnswerReader().push(bytes("HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello"));
    expect([answer?.status, textOf(answer)]).toEqual([201, "hello"]);
  });

  it("takes an answer byte by byte, whatever it is framed with", ({ expect }) => {
    for (const framed of [
      "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 9\r\n\r\ngr\u00fcn\r\n\r\n",
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ngr\u00fcn\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
    ]) {
      const reader = new AnswerReader();
      const all = bytes(framed);
      for (const [i, byte] of all.entries()) {
        const answer = reader.push(Buffer.from([byte]));
        if (i < all.byteLength - 1) expect(answer).toBeNull();
        else expect(textOf(answer)).toBe("gr\u00fcn\r\n\r\n");
      }
    }
  });

  it("reads the next answer after the last", ({ expect }) => {
    const reader = new AnswerReader();
    for (const body of ["a", "bb", ""]) {
      expect(textOf(reader.push(bytes(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`)))).toBe(body);
    }
  });

  it("knows that 204 and 304 have no body", ({ expect }) => {
    const reader = new AnswerReader();
    expect(reader.push(bytes("HTTP/1.1 204 No Content\r\n\r\n"))?.status).toBe(204);
    expect(reader.push(bytes("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"))?.status).toBe(304);
  });

  it("refuses what it would measure wrongly", ({ expect }) => {
    expect(() => new AnswerReader().push(bytes("HTTP/1.1 200 OK\r\n\r\nuntil the end"))).toThrow(/without a length/);
    expect(() => new AnswerReader().push(bytes("SSH-2.0-OpenSSH\r\n\r\n"))).toThrow(/not an HTTP answer/);
    expect(() => new AnswerReader().push(bytes("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"))).toThrow(
      /more bytes/,
    );
  });
});

describe("a connection", () => {
  it("keeps one socket for its requests, and opens another when it was closed or idle for long", async ({ expect }) => {
    let sockets = 0;
    const server = createServer((request, response) => {
      const parts: Buffer[] = [];
      request.on("data", (part: Buffer) => parts.push(part));
      request.on("end", () => {
        if (request.url === "/never") return;
        if (request.url === "/cut") return request.socket.destroy();
        response.writeHead(request.url === "/missing" ? 404 : 200, { "content-type": "application/json" });
        response.end(JSON.stringify({ method: request.method, body: Buffer.concat(parts).toString() }));
      });
    });
    server.on("connection", () => {
      sockets += 1;
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const connection = new Connection(new URL(`http://127.0.0.1:${address.port}`));
    try {
      const posted = await connection.request({ method: "POST", path: "/", body: "gr\u00fcn" });
      expect(jsonOf(posted, 200)).toEqual({ method: "POST", body: "gr\u00fcn" });
      const missing = await connection.request({ method: "GET", path: "/missing" });
      expect(() => expectStatus(missing, 200)).toThrow(/answered 404: {"method":"GET"/);
      expect(sockets).toBe(1);
      await expect(connection.request({ method: "GET", path: "/cut" })).rejects.toThrow();
      expect(jsonOf(await connection.request({ method: "GET", path: "/" }), 200)).toMatchObject({ method: "GET" });
      expect(sockets).toBe(2);
      connection.close();
      expect(jsonOf(await connection.request({ method: "GET", path: "/" }), 200)).toMatchObject({ method: "GET" });
      await new Promise((resolve) => setTimeout(resolve, 1_050));
      expect(jsonOf(await connection.request({ method: "GET", path: "/" }), 200)).toMatchObject({ method: "GET" });
      expect(sockets).toBe(4);
      const unanswered = connection.request({ method: "GET", path: "/never" });
      connection.close();
      await expect(unanswered).rejects.toThrow(/was closed/);
    } finally {
      connection.close();
      server.close();
    }
  });
});
