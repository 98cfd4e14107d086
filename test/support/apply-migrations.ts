import { applyD1Migrations, reset } from "cloudflare:test";
import { env } from "cloudflare:workers";

// Once a file: storage is shared by the files of a run, so each begins with an empty one.
await reset();
await applyD1Migrations(env.DB, env.TEST_MIGRATIONS);
