import type { Actor } from "../../audit/entry.ts";
import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { IdempotencyKey } from "../../db/idempotency.ts";
import type { ProjectRole } from "../../db/schema/index.ts";
import { AppError } from "../../shared/errors.ts";
import type { TaskType } from "../../shared/task-types.ts";
import { isoSeconds } from "../../shared/time.ts";
import { createOnce } from "../idempotency.ts";
import type { ProjectRepository, ProjectRow } from "./repository.ts";

export type ProjectService = ReturnType<typeof createProjectService>;

type ProjectInput = { name: string; description?: string | null; task_type?: TaskType | null };

/** @param role null for an admin who is no member */
const toProject = (project: ProjectRow, role: ProjectRole | null, experimentCount: number) => ({
  id: project.id,
  name: project.name,
  description: project.description,
  task_type: project.taskType,
  user_role: role,
  is_default: project.isDefault,
  max_running_jobs: project.maxRunningJobs,
  experiment_count: experimentCount,
  created_at: isoSeconds(project.createdAt),
  updated_at: isoSeconds(project.updatedAt),
});

type Member = { userId: number; role: ProjectRole; createdAt: number };
const toMember = (member: Member, user: { email: string; fullName: string }) => ({
  user_id: member.userId,
  email: user.email,
  full_name: user.fullName,
  role: member.role,
  joined_at: isoSeconds(member.createdAt),
});

const notFound = () => new AppError("PROJECT_NOT_FOUND", "Project not found");
const noMember = () => new AppError("USER_NOT_FOUND", "No member of this project has this id", { field: "user_id" });
const refused = (message: string, field: string | null = null) => new AppError("BAD_REQUEST", message, { field });

export function createProjectService(deps: {
  projects: ProjectRepository;
  /** Tells whoever hands out jobs how many of a project may run at once. */
  limitRunning: (projectId: number, maxRunning: number | null) => Promise<void>;
  now: () => number;
}) {
  const { projects, limitRunning, now } = deps;

  /** The project for a member. @throws UNAUTHORIZED · PROJECT_NOT_FOUND, the same for an unknown and a foreign one */
  async function readable(principal: Principal, projectId: number) {
    const found = await projects.find(principal, projectId);
    if (found === undefined) throw unauthorized();
    const { project, role, userId, experimentCount } = found;
    if (project === null || role === null) throw notFound();
    return { project, role, userId, experimentCount };
  }

  /** The same for its owner. @throws FORBIDDEN for other members */
  async function owned(principal: Principal, projectId: number) {
    const found = await readable(principal, projectId);
    if (found.role !== "owner") throw new AppError("FORBIDDEN", "Only the owner of a project may do this");
    return found;
  }

  /**
   * The project in which the caller may create things: the named one, or the caller's own default.
   * @throws UNAUTHORIZED · PROJECT_NOT_FOUND for an unknown or foreign one · FORBIDDEN for a viewer
   */
  async function writable(principal: Principal, projectId: number | null) {
    const access = await projects.access(principal, projectId);
    if (access === undefined) throw unauthorized();
    if (access.projectId === null || access.role === null) {
      throw new AppError("PROJECT_NOT_FOUND", "Project not found", { field: "project_id" });
    }
    if (access.role === "viewer") throw new AppError("FORBIDDEN", "Viewers of a project cannot change it");
    return { projectId: access.projectId, userId: access.userId };
  }

  async function createNew(principal: Principal, input: ProjectInput, key: IdempotencyKey | null) {
    const { userId } = await writable(principal, null);
    const { name, description = null, task_type: taskType = null } = input;
    const at = now();
    const project = { ownerId: userId, name, description, taskType, maxRunningJobs: null };
    const id = await projects.create(project, key, at);
    return toProject({ ...project, id, isDefault: false, createdAt: at, updatedAt: at, deletedAt: null }, "owner", 0);
  }

  async function get(principal: Principal, projectId: number) {
    const { project, role, experimentCount } = await readable(principal, projectId);
    return toProject(project, role, experimentCount);
  }

  return {
    writable,

    async list(principal: Principal, page: { skip: number; limit: number }) {
      const rows = await projects.list(principal, page);
      if (rows.length === 0) throw unauthorized();
      return {
        projects: rows.flatMap(({ project, role, experimentCount }) =>
          project && role ? [toProject(project, role, experimentCount)] : [],
        ),
        total: rows[0]?.total ?? 0,
        ...page,
      };
    },

    /** Stores a project that the caller owns; with a key, once. @throws UNAUTHORIZED, and as `get` when it is gone since */
    create: (principal: Principal, input: ProjectInput, key: IdempotencyKey | null = null) =>
      createOnce(
        { binding: projects.binding, now },
        principal,
        key,
        () => createNew(principal, input, key),
        (projectId) => get(principal, Number(projectId)),
      ),

    get,

    /**
     * Changes what is named. An admin who is no owner may change how many jobs run at once, and only that.
     * @throws FORBIDDEN for members who do not own it
     */
    async update(
      principal: Principal,
      projectId: number,
      input: {
        name?: string;
        description?: string | null;
        task_type?: TaskType | null;
        max_running_jobs?: number | null;
      },
    ) {
      const found = await projects.find(principal, projectId);
      if (found === undefined) throw unauthorized();
      const { project, role, isAdmin, experimentCount } = found;
      const { name, description, task_type: taskType, max_running_jobs: maxRunningJobs } = input;
      const onlyLimit = maxRunningJobs !== undefined && Object.keys(input).length === 1;
      const byAdmin = isAdmin && onlyLimit;
      if (project === null || project.deletedAt !== null || (role === null && !byAdmin)) throw notFound();
      if (role !== "owner" && !byAdmin) {
        throw new AppError("FORBIDDEN", "Only the owner of a project may do this");
      }
      const changed = await projects.update(projectId, { name, description, taskType, maxRunningJobs }, now());
      if (changed === undefined) throw notFound();
      if (maxRunningJobs !== undefined) await limitRunning(projectId, maxRunningJobs);
      return toProject(changed, role, experimentCount);
    },

    /**
     * Closes a project: from now on nobody finds anything of it. What it holds is removed afterwards.
     * @throws BAD_REQUEST for the project of things that name none
     */
    async close(principal: Principal, projectId: number, requestId: string): Promise<void> {
      const { project, userId } = await owned(principal, projectId);
      if (project.isDefault) throw refused(`${project.name} cannot be deleted`);
      if (!(await projects.close({ userId, requestId }, projectId, now()))) throw notFound();
    },

    async members(principal: Principal, projectId: number) {
      const rows = await projects.members(principal, projectId);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      return {
        members: rows.flatMap(({ member, email, fullName }) =>
          member && email !== null && fullName !== null ? [toMember(member, { email, fullName })] : [],
        ),
      };
    },

    /** @throws USER_NOT_FOUND for an unknown e-mail · BAD_REQUEST for somebody who is in already */
    async invite(
      principal: Principal,
      projectId: number,
      input: { email: string; role: "editor" | "viewer" },
      requestId: string,
    ) {
      const { userId } = await owned(principal, projectId);
      const user = await projects.candidate(projectId, input.email);
      if (user === undefined) throw new AppError("USER_NOT_FOUND", "No user has this e-mail", { field: "email" });
      const actor: Actor = { userId, requestId };
      const at = now();
      const isIn = user.role !== null || !(await projects.addMember(actor, projectId, user.id, input.role, at));
      if (isIn) throw refused(`email: is ${user.role === "owner" ? "the owner's" : "a member's"} already`, "email");
      return toMember({ userId: user.id, role: input.role, createdAt: at }, user);
    },

    /** @throws USER_NOT_FOUND for somebody who is no member · BAD_REQUEST for the owner, who stays it */
    async changeRole(
      principal: Principal,
      projectId: number,
      memberId: number,
      role: "editor" | "viewer",
      requestId: string,
    ) {
      const { userId } = await owned(principal, projectId);
      if (memberId === userId) throw refused("user_id: the owner's role does not change", "user_id");
      if (!(await projects.changeRole({ userId, requestId }, projectId, memberId, role, now()))) throw noMember();
      return { user_id: memberId, role };
    },

    /** The owner removes members; a member may leave. @throws as `changeRole` */
    async removeMember(principal: Principal, projectId: number, memberId: number, requestId: string): Promise<void> {
      const { role, userId } = await readable(principal, projectId);
      if (role !== "owner" && memberId !== userId) {
        throw new AppError("FORBIDDEN", "Only the owner of a project removes others");
      }
      if (role === "owner" && memberId === userId) throw refused("user_id: the owner cannot be removed", "user_id");
      if (!(await projects.removeMember({ userId, requestId }, projectId, memberId, now()))) throw noMember();
    },
  };
}
