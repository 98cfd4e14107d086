import type { D1Migration } from "@cloudflare/vitest-plugin";

declare global {
  namespace Cloudflare {
    /** What the tests add to the generated environment. */
    interface Env {
      TEST_MIGRATIONS: D1Migration[];
      JWT_SECRET: string;
      INTERNAL_SECRET: string;
    }
  }
}
