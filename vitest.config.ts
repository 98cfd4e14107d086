import path from "node:path";
import { cloudflareTest, readD1Migrations } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** Secrets of the tests only; deployments and `.dev.vars` have random ones. */
const testBindings = {
  JWT_SECRET: "test-only-jwt-secret-0123456789abcdef",
  INTERNAL_SECRET: "test-only-internal-secret-0123456789",
};

export default defineConfig({
  test: {
    projects: [
      {
        test: { name: "unit", include: ["test/unit/**/*.test.ts"], environment: "node", testTimeout: 30_000 },
      },
      {
        assetsInclude: ["**/*.onnx"],
        plugins: [
          cloudflareTest(async () => ({
            main: "./src/index.ts",
            remoteBindings: false,
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: {
              bindings: {
                ...testBindings,
                TEST_MIGRATIONS: await readD1Migrations(path.join(import.meta.dirname, "migrations")),
              },
            },
          })),
        ],
        test: {
          name: "worker",
          include: ["test/{api,objects,worker,contract}/**/*.test.ts"],
          isolate: false,
          setupFiles: ["./test/support/apply-migrations.ts"],
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "flows",
          include: ["test/flows/**/*.test.ts"],
          environment: "node",
          testTimeout: 180_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
