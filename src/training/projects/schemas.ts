import { z } from "@hono/zod-openapi";
import { EmailSchema } from "../../auth/email.ts";
import { plainText } from "../../http/fields.ts";
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
    user_role: z
      .enum(["owner", "editor", "viewer"])
      .nullable()
      .openapi({ description: "Null for an admin who is no member" }),
    is_default: z.boolean(),
    max_running_jobs: z
      .number()
      .int()
      .nullable()
      .openapi({ description: "Jobs of it that runners have at the same time; null: any number" }),
    experiment_count: z.number().int().openapi({ description: "Training jobs in it" }),
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
      max_running_jobs: null,
      experiment_count: 3,
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

/** Any part of it; a name that is not known is refused rather than ignored. */
export const UpdateProjectSchema = z
  .strictObject({
    name: projectName.optional(),
    description: plainText({ max: 10_000 }).nullish(),
    task_type: TaskTypeSchema.nullish(),
    max_running_jobs: z.number().int().min(0).max(10_000).nullish().openapi({
      description: "0 holds all its jobs in the queue. Admins may set it for every project",
    }),
  })
  .openapi("UpdateProject", { example: { name: "Sorting line 4" } });

const role = z.enum(["editor", "viewer"]).openapi({ description: "An editor changes and runs things, a viewer reads" });

export const InviteSchema = z
  .object({ email: EmailSchema, role: role.default("editor") })
  .openapi("Invite", { example: { email: "colleague@example.com", role: "editor" } });

export const ChangeRoleSchema = z.object({ role }).openapi("ChangeRole", { example: { role: "viewer" } });

export const ChangedRoleSchema = z
  .object({ user_id: z.number().int(), role })
  .openapi("ChangedRole", { example: { user_id: 7, role: "viewer" } });

export const MemberSchema = z
  .object({
    user_id: z.number().int(),
    email: z.string(),
    full_name: z.string(),
    role: z.enum(["owner", "editor", "viewer"]),
    joined_at: z.string(),
  })
  .openapi("Member", {
    example: {
      user_id: 7,
      email: "colleague@example.com",
      full_name: "Jane Roe",
      role: "editor",
      joined_at: "2025-11-06T12:00:00Z",
    },
  });

export const MemberListSchema = z.object({ members: z.array(MemberSchema) }).openapi("MemberList");

export const ProjectListSchema = z
  .object({
    projects: z.array(ProjectSchema),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("ProjectList");
