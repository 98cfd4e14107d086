import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { ProjectRole, projects as projectTable } from "../../db/schema/index.ts";
import { AppError } from "../../shared/errors.ts";
import type { TaskType } from "../../shared/task-types.ts";
import { isoSeconds } from "../../shared/time.ts";
import type { ProjectRepository } from "./repository.ts";

export type ProjectService = ReturnType<typeof createProjectService>;

const toProject = (project: typeof projectTable.$inferSelect, role: ProjectRole) => ({
  id: project.id,
  name: project.name,
  description: project.description,
  task_type: project.taskType,
  user_role: role,
  is_default: project.isDefault,
  created_at: isoSeconds(project.createdAt),
  updated_at: isoSeconds(project.updatedAt),
});

export function createProjectService(deps: { projects: ProjectRepository; now: () => number }) {
  const { projects, now } = deps;
  return {
    /**
     * The project in which the caller may create things: the named one, or the caller's own default.
     * @throws UNAUTHORIZED · PROJECT_NOT_FOUND for an unknown or foreign one · FORBIDDEN for a viewer
     */
    async writable(principal: Principal, projectId: number | null): Promise<{ projectId: number; userId: number }> {
      const access = await projects.access(principal, projectId);
      if (access === undefined) throw unauthorized();
      if (access.projectId === null || access.role === null) {
        throw new AppError("PROJECT_NOT_FOUND", "Project not found", { field: "project_id" });
      }
      if (access.role === "viewer") throw new AppError("FORBIDDEN", "Viewers of a project cannot change it");
      return { projectId: access.projectId, userId: access.userId };
    },

    async list(principal: Principal, page: { skip: number; limit: number }) {
      const rows = await projects.list(principal, page);
      if (rows.length === 0) throw unauthorized();
      return {
        projects: rows.flatMap(({ project, role }) => (project && role ? [toProject(project, role)] : [])),
        total: rows[0]?.total ?? 0,
        ...page,
      };
    },

    async create(
      principal: Principal,
      input: { name: string; description?: string | null; task_type?: TaskType | null },
    ) {
      const { userId } = await this.writable(principal, null);
      const { name, description = null, task_type: taskType = null } = input;
      const at = now();
      const project = { ownerId: userId, name, description, taskType };
      const id = await projects.create(project, at);
      return toProject({ ...project, id, isDefault: false, createdAt: at, updatedAt: at, deletedAt: null }, "owner");
    },
  };
}
