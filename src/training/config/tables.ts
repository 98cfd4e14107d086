import { EMBEDDED } from "./embedded.ts";
import type { ConfigTable } from "./fields.ts";
import { TIMM } from "./timm.ts";
import { ULTRALYTICS } from "./ultralytics.ts";

/** The frameworks that runners train, each with its own settings. */
export const CONFIG_FRAMEWORKS = ["timm", "ultralytics", "embedded"] as const;

export type ConfigFramework = (typeof CONFIG_FRAMEWORKS)[number];

export const isConfigFramework = (text: string): text is ConfigFramework =>
  CONFIG_FRAMEWORKS.some((framework) => framework === text);

/** The one table a framework; the published schema, validation and advice all read it. */
export const TABLES: Readonly<Record<ConfigFramework, ConfigTable>> = {
  timm: TIMM,
  ultralytics: ULTRALYTICS,
  embedded: EMBEDDED,
};
