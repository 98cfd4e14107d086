import { resolve } from "node:path";
import { describe, it } from "vitest";
import { isLocal, parseOptions } from "../../../runner/embedded/agent/options.ts";

describe("parseOptions", () => {
  it("needs nothing for a server on this machine", ({ expect }) => {
    expect(parseOptions([])).toMatchObject({
      ok: true,
      value: {
        url: "http://localhost:8000",
        credentials: { type: "none" },
        stateDir: resolve(".cultivar/runner"),
        slots: 1,
        once: false,
      },
    });
  });

  it("reads everything", ({ expect }) => {
    const args = "--url https://x.example/base/ --token T --state-dir s --name n --slots 2 --once --cache-mb 1";
    expect(parseOptions([...args.split(" "), "--trainer", "timm=a=b.ts"])).toEqual({
      ok: true,
      value: {
        url: "https://x.example/base",
        credentials: { type: "token", token: "T" },
        stateDir: resolve("s"),
        name: "n",
        slots: 2,
        labels: {},
        once: true,
        cacheBytes: 1024 * 1024,
        trainers: [["timm", resolve("a=b.ts")]],
      },
    });
    expect(parseOptions(["--help", "--slots", "no"])).toEqual({ ok: true, value: "help" });
    expect(parseOptions(["--email", "a@b.c", "--password-stdin"])).toMatchObject({
      value: { credentials: { type: "login", email: "a@b.c" } },
    });
  });

  it("reads labels by commas and one by one", ({ expect }) => {
    expect(parseOptions(["--labels", "zone=seoul, tier=", "--labels", "q=a=b"])).toMatchObject({
      value: { labels: { zone: "seoul", tier: "", q: "a=b" } },
    });
  });

  it("says what is wrong", ({ expect }) => {
    const wrong: [string, RegExp][] = [
      ["--url nonsense", /--url/],
      ["--url ftp://localhost", /https/],
      ["--url http://10.0.0.1:8000", /--insecure-http/],
      ["--url http://u:p@localhost", /password/],
      ["--slots 0", /--slots/],
      ["--slots 1.5", /--slots/],
      ["--cache-mb -1", /--cache-mb/],
      ["--email a@b.c", /--password-stdin/],
      ["--password-stdin", /--email/],
      ["--token a --email b --password-stdin", /exclude/],
      ["--trainer timm", /--trainer/],
      ["--labels zone", /NAME=VALUE/],
      ["--labels =a", /NAME=VALUE/],
      ["--labels a=1,a=2", /a twice/],
      [`--labels ${Array.from({ length: 49 }, (_, i) => `l${i}=`).join(",")}`, /at most 48/],
      ["--name=", /--name/],
      ["--unknown", /unknown/],
      ["positional", /positional/i],
    ];
    for (const [args, what] of wrong) {
      const parsed = parseOptions(args.split(" "));
      expect(parsed.ok, args).toBe(false);
      if (!parsed.ok) expect(parsed.error).toMatch(what);
    }
  });

  it("allows plain http elsewhere when told to", ({ expect }) => {
    expect(parseOptions(["--url", "http://10.0.0.1:8000", "--insecure-http"]).ok).toBe(true);
  });
});

describe("isLocal", () => {
  it("knows this machine's own names and no others", ({ expect }) => {
    const local = ["http://localhost:1", "http://127.0.0.1", "http://127.1.2.3:9", "http://[::1]:8000"];
    expect(local.every(isLocal)).toBe(true);
    const remote = [
      "http://localhost.evil.example",
      "http://128.0.0.1",
      "http://x.localhost.example",
      "http://1.127.0.0",
    ];
    expect(remote.some(isLocal)).toBe(false);
  });
});
