import { createRoute, z } from "@hono/zod-openapi";
import { principalOf, requireUser, unauthorized } from "../../../auth/bearer.ts";
import { createRouter, jsonContent, problems } from "../../../http/create-api.ts";
import { idParam } from "../../../http/fields.ts";
import { AppError } from "../../../shared/errors.ts";
import { LiveEventDataSchema, TicketSchema } from "./schemas.ts";

const tags = ["Training"];
const params = z.object({ job_id: idParam("job_id") });
const tokenOrTicket: Record<string, string[]>[] = [{ bearer: [] }, { eventTicket: [] }];
/** What a browser sends back is what it was given: the number of an event. */
const eventId = z
  .string()
  .regex(/^(0|[1-9]\d{0,14})$/, "must be the id of an event")
  .optional();

const events = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/events",
  operationId: "watchJob",
  tags,
  summary: "What happens to a job, as it happens (server-sent events)",
  description: `A stream of \`text/event-stream\`. Each event has an \`id\`, an \`event\` name and JSON \`data\`:

| event | when | data |
|---|---|---|
| \`status\` | first of all, and when status, phase, epoch or best value change | StatusEvent |
| \`metrics\` | points came in; those of about 0.1 s together | MetricsEvent |
| \`log\` | a chunk of lines came in | LogEvent |
| \`validation\` | a validation result came in | ValidationEvent |
| \`checkpoint\` | a checkpoint or an exported model is complete | CheckpointEvent |
| \`reset\` | what came after the given event is not kept any more: load metrics, logs and results anew | ResetEvent |
| \`end\` | the job has ended and its data are in; the stream closes | EndEvent |

A stream begins with the present status; open it first, then read what there was before. A client that was cut off sends the
\`id\` of the last event it has had as \`Last-Event-ID\` (or \`last_event_id\`) and gets all that came after it, once each: the
newest 5,000 events, until 15 minutes after the last watcher has gone. An answer of 204 says that nothing comes after that
event. Lines that begin with \`:\` are sent every 15 seconds to keep the connection. A client that does not read is cut off;
so is, within a minute, one whose token has ended or who was removed from the project.

\`curl -N -H "authorization: Bearer $TOKEN" $URL/api/v1/training/jobs/5/events\`

A browser's \`EventSource\` sends no headers: it buys a ticket first (\`POST …/events/ticket\`) and opens the \`url\` of the
answer. A ticket opens one stream, so for connecting again a page needs another one, with \`last_event_id\`.`,
  security: tokenOrTicket,
  request: {
    params,
    headers: z.object({ "last-event-id": eventId }),
    query: z.object({
      last_event_id: eventId.openapi({ description: "For browsers: instead of the header, over which it wins" }),
      ticket: z.string().min(1).max(2_000).optional().openapi({ description: "Instead of a token, once" }),
    }),
  },
  responses: {
    200: {
      description: "Events; the schema is that of each `data`",
      content: { "text/event-stream": { schema: LiveEventDataSchema } },
    },
    204: { description: "The job has ended and nothing came after the given event" },
    ...problems(401, 404, 422, 429),
  },
});

const ticket = createRoute({
  method: "post",
  path: "/training/jobs/{job_id}/events/ticket",
  operationId: "createEventTicket",
  tags,
  summary: "A ticket with which a browser opens the stream of a job's events, once and within a minute",
  description: `\`\`\`js
async function watch(jobId, token, lastEventId) {
  const headers = { authorization: \`Bearer \${token}\` };
  const { url } = await (await fetch(\`/api/v1/training/jobs/\${jobId}/events/ticket\`, { method: "POST", headers })).json();
  const source = new EventSource(lastEventId === undefined ? url : \`\${url}&last_event_id=\${lastEventId}\`);
  const on = (name, use) => source.addEventListener(name, (event) => { lastEventId = event.lastEventId; use(JSON.parse(event.data)); });
  on("metrics", ({ points }) => draw(points));
  on("end", () => source.close());
  source.onerror = () => { source.close(); setTimeout(() => watch(jobId, token, lastEventId), 3000); };
}
\`\`\``,
  security: [{ bearer: [] }],
  request: { params },
  responses: { 201: jsonContent(TicketSchema, "The ticket"), ...problems(401, 404, 422) },
});

const STREAM_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "private, no-store, no-transform",
  // Proxies of the nginx kind hold an answer back otherwise.
  "x-accel-buffering": "no",
};

/** Routes with guards of their own: a stream is opened with a token or with a ticket. */
export const liveRoutes = createRouter();
liveRoutes.use("/training/jobs/:job_id/events/ticket", requireUser);
liveRoutes
  .openapi(events, async (c): Promise<Response> => {
    const { live, config, now } = c.get("services");
    const { job_id } = c.req.valid("param");
    const query = c.req.valid("query");
    const bearer = c.req.header("authorization");
    if (query.ticket !== undefined && bearer !== undefined) {
      throw new AppError("VALIDATION_ERROR", "ticket: not together with a token", { field: "ticket" });
    }
    const principal = query.ticket === undefined ? await principalOf(bearer, config.jwtSecret, now()) : null;
    if (query.ticket === undefined && principal === null) throw unauthorized();
    // A question about the stream opens none, and uses no ticket up.
    const isHead = c.req.raw.method === "HEAD";
    const watcher = principal === null ? await live.holder(job_id, query.ticket ?? "") : { principal, ticket: null };
    const after = query.last_event_id ?? c.req.valid("header")["last-event-id"];
    const stream = isHead
      ? await live.look(watcher, job_id)
      : await live.open(watcher, job_id, after === undefined ? null : Number(after));
    return stream === null ? new Response(null, { status: 204 }) : new Response(stream, { headers: STREAM_HEADERS });
  })
  .openapi(ticket, async (c) => {
    const { live } = c.get("services");
    const { job_id } = c.req.valid("param");
    const made = await live.makeTicket(c.get("principal"), job_id);
    const path = new URL(c.req.url).pathname.replace(/\/ticket$/, "");
    return c.json({ ...made, url: `${path}?ticket=${made.ticket}` }, 201);
  });
