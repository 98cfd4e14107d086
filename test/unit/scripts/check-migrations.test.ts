import { describe, it } from "vitest";
import { migrationProblems } from "../../../scripts/check-migrations.ts";

describe("the check of migrations", () => {
  it("lets additive changes pass", ({ expect }) => {
    expect(migrationProblems("CREATE TABLE `a` (`id` integer);\nALTER TABLE `a` ADD `b` text;")).toEqual([]);
  });

  it("refuses a rebuilt table in the form that drizzle-kit writes", ({ expect }) => {
    const sql = "CREATE TABLE `__new_a` (`id` integer);\nDROP TABLE `a`;\nALTER TABLE `__new_a` RENAME TO `a`;";
    expect(migrationProblems(sql)).toEqual(["drops a table", "rebuilds a table"]);
  });

  it("refuses references that delete or empty rows on their own", ({ expect }) => {
    expect(migrationProblems("FOREIGN KEY (`a`) REFERENCES `b`(`id`) ON DELETE cascade")).toHaveLength(1);
    expect(migrationProblems("FOREIGN KEY (`a`) REFERENCES `b`(`id`) ON DELETE no action")).toEqual([]);
  });

  it("does not read comments", ({ expect }) => {
    expect(migrationProblems("-- DROP TABLE a\n/* __new_a */ SELECT 1;")).toEqual([]);
  });
});
