import { and, asc, desc, eq, inArray, isNotNull, type SQL, sql } from "drizzle-orm";
import { alias } from "drizzle-orm/sqlite-core";
import { type Actor, auditIfChanged } from "../../audit/entry.ts";
import { me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { type IdempotencyKey, rememberKey } from "../../db/idempotency.ts";
import {
  datasets,
  datasetUploads,
  type ProjectRole,
  projectMembers,
  projects,
  trainingJobs,
  users,
} from "../../db/schema/index.ts";
import type { TaskType } from "../../shared/task-types.ts";

export type ProjectRepository = ReturnType<typeof createProjectRepository>;
export type ProjectRow = typeof projects.$inferSelect;

const experimentCount = sql<number>`(select count(*) from ${trainingJobs} where ${trainingJobs.projectId} = ${projects.id})`;

export function createProjectRepository(binding: D1Database) {
  const db = createDb(binding);

  /** A change of the membership of a project, guarded by what the caller may do, and its audit row. */
  async function changeMembers(
    change: SQL,
    actor: Actor,
    entry: {
      action: "member.add" | "member.change" | "member.remove";
      projectId: number;
      details: Record<string, unknown>;
    },
    now: number,
  ): Promise<boolean> {
    const { action, projectId, details } = entry;
    const [changed] = await runBatch(binding, [
      change,
      auditIfChanged(actor, { action, target: { type: "project", id: projectId }, details }, now),
    ]);
    return (changed?.meta.changes ?? 0) > 0;
  }

  return {
    binding,

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

    /** A project with the caller's role in it, null for a stranger. Undefined: the caller is not valid. */
    async find(principal: Principal, projectId: number) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({
          userId: caller.id,
          isAdmin: caller.isAdmin,
          project: projects,
          role: projectMembers.role,
          experimentCount,
        })
        .from(caller)
        .leftJoin(projects, eq(projects.id, projectId))
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
        .select({
          project: projects,
          role: projectMembers.role,
          experimentCount,
          total: db.$count(projectMembers, mine),
        })
        .from(caller)
        .leftJoin(projects, inArray(projects.id, page))
        .leftJoin(projectMembers, and(eq(projectMembers.projectId, projects.id), mine))
        .orderBy(desc(projects.id));
    },

    /** Stores a project, its owner's membership and its key in one batch; returns its id. @throws when the key is there already */
    async create(
      input: { ownerId: number; name: string; description: string | null; taskType: TaskType | null },
      key: IdempotencyKey | null,
      now: number,
    ) {
      const [inserted] = await runBatch(binding, [
        db
          .insert(projects)
          .values({ ...input, createdAt: now, updatedAt: now })
          .returning({ id: projects.id }),
        sql`insert into ${projectMembers} (project_id, user_id, role, created_at)
            values (last_insert_rowid(), ${input.ownerId}, 'owner', ${now})`,
        // The membership has no rowid, so the last one is still the project's.
        ...(key === null ? [] : rememberKey(input.ownerId, key, sql`last_insert_rowid()`, now)),
      ]);
      return Number(inserted?.results[0]?.id);
    },

    async update(
      projectId: number,
      changes: Partial<Pick<ProjectRow, "name" | "description" | "taskType" | "maxRunningJobs">>,
      now: number,
    ): Promise<ProjectRow | undefined> {
      const [row] = await db
        .update(projects)
        .set({ ...changes, updatedAt: now })
        .where(eq(projects.id, projectId))
        .returning();
      return row;
    },

    /**
     * Closes a project to everybody in one batch: no members, no public datasets. Its content is removed afterwards.
     * @returns whether the caller owned it and it was no default project
     */
    async close(actor: Actor, projectId: number, now: number): Promise<boolean> {
      const closed = sql`exists (select 1 from ${projects} where id = ${projectId} and deleted_at = ${now})`;
      const [changed] = await runBatch(binding, [
        sql`update ${projects} set deleted_at = ${now}
            where id = ${projectId} and owner_id = ${actor.userId} and is_default = 0 and deleted_at is null`,
        auditIfChanged(actor, { action: "project.delete", target: { type: "project", id: projectId } }, now),
        sql`delete from ${projectMembers} where project_id = ${projectId} and ${closed}`,
        sql`update ${datasets} set visibility = 'private' where project_id = ${projectId} and ${closed}`,
      ]);
      return (changed?.meta.changes ?? 0) > 0;
    },

    /** Projects that were closed and whose content is not all removed yet. */
    async closed(limit: number): Promise<number[]> {
      const rows = await db
        .select({ id: projects.id })
        .from(projects)
        .where(isNotNull(projects.deletedAt))
        .orderBy(asc(projects.deletedAt))
        .limit(limit);
      return rows.map((row) => row.id);
    },

    /** Removes the row of a closed project once nothing refers to it; true when it is gone. */
    async forget(projectId: number): Promise<boolean> {
      const [removed] = await runBatch(binding, [
        sql`delete from ${projects} where id = ${projectId} and deleted_at is not null
            and not exists (select 1 from ${trainingJobs} where project_id = ${projectId})
            and not exists (select 1 from ${datasets} where project_id = ${projectId})
            and not exists (select 1 from ${datasetUploads} where project_id = ${projectId})`,
      ]);
      return (removed?.meta.changes ?? 0) > 0;
    },

    /** The members of a project and the caller's role: no row means 401, a row without a role 404. */
    async members(principal: Principal, projectId: number) {
      const caller = me(db, principal);
      const own = alias(projectMembers, "own");
      return db
        .with(caller)
        .select({ role: own.role, member: projectMembers, email: users.email, fullName: users.fullName })
        .from(caller)
        .leftJoin(own, and(eq(own.projectId, projectId), eq(own.userId, caller.id)))
        .leftJoin(projectMembers, eq(projectMembers.projectId, own.projectId))
        .leftJoin(users, eq(users.id, projectMembers.userId))
        .orderBy(asc(projectMembers.createdAt), asc(projectMembers.userId));
    },

    /** The user of an e-mail, with the role that he has in the project. */
    async candidate(projectId: number, email: string) {
      const [row] = await db
        .select({ id: users.id, fullName: users.fullName, email: users.email, role: projectMembers.role })
        .from(users)
        .leftJoin(projectMembers, and(eq(projectMembers.projectId, projectId), eq(projectMembers.userId, users.id)))
        .where(and(eq(users.email, email), sql`${users.disabledAt} is null`));
      return row;
    },

    /** The role of a user in a project. */
    async roleOf(projectId: number, userId: number): Promise<ProjectRole | undefined> {
      const [row] = await db
        .select({ role: projectMembers.role })
        .from(projectMembers)
        .where(and(eq(projectMembers.projectId, projectId), eq(projectMembers.userId, userId)));
      return row?.role;
    },

    addMember: (actor: Actor, projectId: number, userId: number, role: ProjectRole, now: number) =>
      changeMembers(
        sql`insert into ${projectMembers} (project_id, user_id, role, created_at)
            select id, ${userId}, ${role}, ${now} from ${projects}
            where id = ${projectId} and owner_id = ${actor.userId} and deleted_at is null on conflict do nothing`,
        actor,
        { action: "member.add", projectId, details: { user_id: userId, role } },
        now,
      ),

    changeRole: (actor: Actor, projectId: number, userId: number, role: ProjectRole, now: number) =>
      changeMembers(
        sql`update ${projectMembers} set role = ${role}
            where project_id = ${projectId} and user_id = ${userId} and role <> 'owner'
            and exists (select 1 from ${projects} where id = ${projectId} and owner_id = ${actor.userId})`,
        actor,
        { action: "member.change", projectId, details: { user_id: userId, role } },
        now,
      ),

    /** The owner removes anybody but himself; everybody else removes himself. */
    removeMember: (actor: Actor, projectId: number, userId: number, now: number) =>
      changeMembers(
        sql`delete from ${projectMembers}
            where project_id = ${projectId} and user_id = ${userId} and role <> 'owner'
            and (${userId} = ${actor.userId}
              or exists (select 1 from ${projects} where id = ${projectId} and owner_id = ${actor.userId}))`,
        actor,
        { action: "member.remove", projectId, details: { user_id: userId } },
        now,
      ),
  };
}
