import { describe, it } from "vitest";
import { z } from "zod";
import { call } from "../support/api.ts";

/** The documents page: what a browser is told, and that nothing on it needs an exception from that. */

const page = async (query = "") => {
  const answer = await call<string>("GET", `/docs${query}`);
  return { ...answer, html: z.string().parse(answer.body) };
};
const attributes = (html: string, pattern: RegExp) => [...html.matchAll(pattern)].map(([, value]) => value);
const documentOf = (html: string) => attributes(html, /data-url="([^"]*)"/g);

const DOCUMENTS = [
  { query: "", url: "/api/v1/openapi.json", title: "Training API" },
  { query: "?api=training", url: "/api/v1/openapi.json", title: "Training API" },
  { query: "?api=breeding", url: "/api/openapi.json", title: "Breeding API" },
];

describe("the documents page", () => {
  it.for(DOCUMENTS)("shows a document that is served: /docs$query", async ({ query, url, title }, { expect }) => {
    const { status, html, headers } = await page(query);
    expect([status, headers.get("content-type")]).toEqual([200, "text/html; charset=UTF-8"]);
    expect(documentOf(html)).toEqual([url]);
    expect(attributes(html, /aria-current="page"><strong>([^<]*)</g)).toEqual([title]);
    expect(html).toContain(`<title>cultivar: ${title}</title>`);
    const document = await call<{ openapi: string; info: { title: string } }>("GET", url);
    expect([document.status, document.body.openapi]).toEqual([200, "3.1.0"]);
    expect(document.body.info.title).toContain(title);
  });

  it("links to both documents from either", async ({ expect }) => {
    for (const { query } of DOCUMENTS) {
      const { html } = await page(query);
      expect(attributes(html, /<a href="([^"]*)"/g)).toEqual(["/docs?api=training", "/docs?api=breeding"]);
    }
  });

  it("shows the first document for a name that it does not know, and repeats nothing of it", async ({ expect }) => {
    const first = (await page()).html;
    for (const name of ["other", "", "__proto__", "toString", "https://evil.example/x.json", '"><script>x</script>']) {
      const { status, html } = await page(`?api=${encodeURIComponent(name)}`);
      expect([name, status, html]).toEqual([name, 200, first]);
    }
  });

  it("allows scripts of its own origin only, and has none of its own in the page", async ({ expect }) => {
    const { html, headers } = await page();
    const policy = new Map(
      (headers.get("content-security-policy") ?? "").split("; ").map((rule) => {
        const [name = "", ...values] = rule.split(" ");
        return [name, values.join(" ")];
      }),
    );
    expect(policy.get("default-src")).toBe("'none'");
    expect(policy.get("script-src")).toBe("'self'");
    expect(policy.get("connect-src")).toBe("'self'");
    expect(policy.get("frame-ancestors")).toBe("'none'");
    expect(policy.get("base-uri")).toBe("'none'");
    expect(headers.get("referrer-policy")).toBe("no-referrer");
    expect(headers.get("x-content-type-options")).toBe("nosniff");

    const scripts = attributes(html, /<script([^>]*)>/g);
    expect(scripts).toEqual([' src="/docs/assets/swagger-ui-bundle.js"', ' src="/docs/start.js"']);
    expect(attributes(html, /<script[^>]*>([^<]*)</g).join("")).toBe("");
    expect(html).not.toMatch(/\son\w+\s*=|javascript:/i);
    // Nothing comes from anywhere else.
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
  });

  it("is started by a script with the type that a browser accepts under nosniff", async ({ expect }) => {
    const script = await call<string>("GET", "/docs/start.js");
    expect([script.status, script.headers.get("content-type")]).toEqual([200, "text/javascript; charset=utf-8"]);
    expect(script.body).toContain("SwaggerUIBundle(");
    // An outside validator would be told every address of the document.
    expect(script.body).toContain("validatorUrl: null");
  });
});
