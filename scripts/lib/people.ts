import { hashPassword } from "../../src/auth/password.ts";

export type NewUser = { id?: number; email: string; fullName: string; password: string; admin: boolean };

/** A text as an SQL literal. SQLite text ends at NUL, so one in it is refused. */
export function literal(text: string): string {
  if (text.includes("\0")) throw new Error("a NUL character is not allowed");
  return `'${text.replaceAll("'", "''")}'`;
}

/**
 * SQL that adds a user with the default project that jobs and datasets without a project go to. A second run with the same
 * e-mail fails on its unique index and changes nothing (one file is one transaction).
 */
export async function addUserSql(user: NewUser, nowMs: number): Promise<string> {
  const email = literal(user.email.toLowerCase());
  return `
    INSERT INTO users (${user.id === undefined ? "" : "id, "}email, full_name, password_hash, is_admin, created_at)
      VALUES (${user.id === undefined ? "" : `${user.id}, `}${email}, ${literal(user.fullName)},
        ${literal(await hashPassword(user.password))}, ${user.admin ? 1 : 0}, ${nowMs});
    INSERT INTO projects (owner_id, name, is_default, created_at, updated_at)
      SELECT id, 'Uncategorized', 1, ${nowMs}, ${nowMs} FROM users WHERE email = ${email};
    INSERT INTO project_members (project_id, user_id, role, created_at)
      SELECT p.id, u.id, 'owner', ${nowMs} FROM users u JOIN projects p ON p.owner_id = u.id AND p.is_default = 1
      WHERE u.email = ${email};`;
}
