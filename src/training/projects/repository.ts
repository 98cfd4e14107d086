import { and, desc, eq, inArray, sql } from "drizzle-orm";
import { me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { projectMembers, projects } from "../../db/schema/index.ts";
import type { TaskType } from "../../shared/task-types.ts";

export type ProjectRepository = ReturnType<typeof createProjectRepository>;

export function createProjectRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    /** The caller's role in a project (the default one when `projectId` is null). Undefined: the caller is not valid. */
    async access(principal: Principal, projectId: number | null) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({ userId: caller.id, projectId: projects.id, role: projectMembers.role })
        .from(caller)
        .leftJoin(
          projects,
          projectId === null
            ? and(eq(projects.ownerId, caller.id), eq(projects.isDefault, true))
            : eq(projects.id, projectId),
        )
        .leftJoin(projectMembers, and(eq(projectMembers.projectId, projects.id), eq(projectMembers.userId, caller.id)))
        .limit(1);
      return row;
    },

    /** One page of the caller's projects, newest first, and their number. No row at all: the caller is not valid. */
    async list(principal: Principal, window: { skip: number; limit: number }) {
      const caller = me(db, principal);
      const mine = eq(projectMembers.userId, principal.userId);
      const page = db
        .select({ id: projectMembers.projectId })
        .from(projectMembers)
        .where(mine)
        .orderBy(desc(projectMembers.projectId))
        .limit(window.limit)
        .offset(window.skip);
      return db
        .with(caller)
        .select({ project: projects, role: projectMembers.role, total: db.$count(projectMembers, mine) })
        .from(caller)
        .leftJoin(projects, inArray(projects.id, page))
        .leftJoin(projectMembers, and(eq(projectMembers.projectId, projects.id), mine))
        .orderBy(desc(projects.id));
    },

    /** Stores a project and its owner's membership in one batch; returns its id. */
    async create(
      input: { ownerId: number; name: string; description: string | null; taskType: TaskType | null },
      now: number,
    ) {
      const [inserted] = await runBatch(binding, [
        db
          .insert(projects)
          .values({ ...input, createdAt: now, updatedAt: now })
          .returning({ id: projects.id }),
        sql`insert into ${projectMembers} (project_id, user_id, role, created_at)
            values (last_insert_rowid(), ${input.ownerId}, 'owner', ${now})`,
      ]);
      return Number(inserted?.results[0]?.id);
    },
  };
}
