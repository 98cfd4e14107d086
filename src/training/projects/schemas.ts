import { z } from "@hono/zod-openapi";
import { plainText } from "../../http/create-api.ts";
import { TaskTypeSchema } from "../models/schemas.ts";

const projectName = plainText({ min: 1, max: 200 })
  .transform((name) => name.trim())
  .refine((name) => name.length > 0, "must not be blank");

export const ProjectSchema = z
  .object({
    id: z.number().int(),
    name: z.string(),
    description: z.string().nullable(),
    task_type: TaskTypeSchema.nullable(),
    user_role: z.enum(["owner", "editor", "viewer"]),
    is_default: z.boolean(),
    created_at: z.string(),
    updated_at: z.string(),
  })
  .openapi("Project", {
    example: {
      id: 2,
      name: "My Project",
      description: null,
      task_type: null,
      user_role: "owner",
      is_default: false,
      created_at: "2025-11-06T12:00:00Z",
      updated_at: "2025-11-06T12:00:00Z",
    },
  });

export const CreateProjectSchema = z
  .object({
    name: projectName,
    description: plainText({ max: 10_000 }).nullish(),
    task_type: TaskTypeSchema.nullish(),
  })
  .openapi("CreateProject", { example: { name: "My Project", description: "Sorting line 3" } });

export const ProjectListSchema = z
  .object({
    projects: z.array(ProjectSchema),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("ProjectList");
