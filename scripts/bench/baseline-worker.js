/**
 * What every figure of the benchmark is compared with: the least that a Worker on the same D1 can do. One answer without
 * any work, one inserted row, one row read by its primary key, in the tables that the application uses.
 */

let steps = 0;

/** @type {ExportedHandler<{ DB: D1Database }>} */
export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/insert") {
      steps += 1;
      await env.DB.prepare(
        `INSERT INTO training_metrics
           (job_id, epoch, step, attempt, id, loss, accuracy, learning_rate, extra_metrics, created_at)
         VALUES (0, ?, ?, 1, ?, 0.45, 0.85, 0.001, '{}', ?)`,
      )
        .bind(Math.ceil(steps / 100), steps, steps, Date.now())
        .run();
      return Response.json({ status: "received" });
    }
    if (pathname === "/read") {
      return Response.json(
        await env.DB.prepare("SELECT * FROM training_jobs WHERE id = ?").bind(searchParams.get("id")).first(),
      );
    }
    return new Response("hello");
  },
};
