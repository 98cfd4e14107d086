export * from "./breeding.ts";
export * from "./datasets.ts";
export * from "./jobs.ts";
export * from "./people.ts";
export * from "./runners.ts";
