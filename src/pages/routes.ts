import { Hono } from "hono";
import { html } from "hono/html";
import type { AppEnv } from "../http/create-api.ts";

const DOCUMENTS = {
  training: { title: "Training API", url: "/api/v1/openapi.json" },
  breeding: { title: "Breeding API", url: "/api/openapi.json" },
} as const;

type DocumentName = keyof typeof DOCUMENTS;

/** Swagger UI writes style attributes; scripts come from this origin only. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join("; ");

/** Starts Swagger UI with the document that the page names; no inline script, so the policy above needs no exception. */
const START_SCRIPT = `const root = document.getElementById("swagger");
window.ui = SwaggerUIBundle({
  domNode: root,
  url: root.dataset.url,
  deepLinking: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
`;

const isDocument = (name: string | undefined): name is DocumentName =>
  name !== undefined && Object.hasOwn(DOCUMENTS, name);

/** The documents page: Swagger UI from the package's own files, no CDN. `?api=` chooses the document. */
export const pageRoutes = new Hono<AppEnv>()
  .get("/docs", (c) => {
    const asked = c.req.query("api");
    const name: DocumentName = isDocument(asked) ? asked : "training";
    const links = Object.entries(DOCUMENTS).map(([key, { title }]) =>
      key === name
        ? html`<a href="/docs?api=${key}" aria-current="page"><strong>${title}</strong></a> `
        : html`<a href="/docs?api=${key}">${title}</a> `,
    );
    c.header("content-security-policy", CONTENT_SECURITY_POLICY);
    c.header("referrer-policy", "no-referrer");
    return c.html(html`<!doctype html>
      <html lang="en">
        <head>
          <meta charset="utf-8" />
          <meta name="viewport" content="width=device-width, initial-scale=1" />
          <title>cultivar: ${DOCUMENTS[name].title}</title>
          <link rel="icon" href="data:," />
          <link rel="stylesheet" href="/docs/assets/swagger-ui.css" />
          <style>
            body { margin: 0; }
            nav { padding: 12px 20px; font: 15px system-ui, sans-serif; background: #1f5c3c; display: flex; gap: 20px; }
            nav a { color: #fff; }
          </style>
        </head>
        <body>
          <nav>${links}</nav>
          <div id="swagger" data-url="${DOCUMENTS[name].url}"></div>
          <script src="/docs/assets/swagger-ui-bundle.js"></script>
          <script src="/docs/start.js"></script>
        </body>
      </html>`);
  })
  .get("/docs/start.js", (c) => {
    c.header("content-type", "text/javascript; charset=utf-8");
    return c.body(START_SCRIPT);
  });
