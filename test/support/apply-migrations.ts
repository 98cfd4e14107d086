import { applyD1Migrations, listDurableObjectIds, reset, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";

// Once a file: storage is shared by the files of a run, so each begins with an empty one. `reset` passes over objects that
// are not in memory, and ids of jobs begin at 1 again.
for (const namespace of [env.TRAINING_JOB, env.RUNNER_POOL]) {
  for (const id of await listDurableObjectIds(namespace)) {
    await runInDurableObject(namespace.get(id), async (_, state) => {
      await state.storage.deleteAlarm();
      await state.storage.deleteAll();
    });
  }
}
await reset();
await applyD1Migrations(env.DB, env.TEST_MIGRATIONS);
