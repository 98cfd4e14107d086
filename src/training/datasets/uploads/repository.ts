import { and, asc, desc, eq, lt, type SQL, sql } from "drizzle-orm";
import { z } from "zod";
import { me, type Principal } from "../../../auth/principal.ts";
import { runBatch } from "../../../db/batch.ts";
import { createDb } from "../../../db/client.ts";
import { type IdempotencyKey, rememberKey } from "../../../db/idempotency.ts";
import { datasetUploadParts, datasetUploads, projectMembers, type UploadRefusal } from "../../../db/schema/index.ts";
import { keys } from "../../../storage/keys.ts";
import { noteRemoval } from "../../../storage/removals.ts";
import { mayWrite } from "../repository.ts";

export type UploadRepository = ReturnType<typeof createUploadRepository>;
export type UploadRow = typeof datasetUploads.$inferSelect;
export type ReceivedPart = { n: number; etag: string };
export type FoundUpload = {
  upload: UploadRow | null;
  role: "owner" | "editor" | "viewer" | null;
  parts: ReceivedPart[];
};

const PartsSchema = z.array(z.tuple([z.number(), z.string()]));

/** State of the uploads in parts. A statement that changes one names the state it has to be in. */
export function createUploadRepository(binding: D1Database) {
  const db = createDb(binding);

  /** Uploads with their parts and the caller's role in their projects. No row at all: the caller is not valid. */
  const withParts = (principal: Principal, condition: SQL) => {
    const caller = me(db, principal);
    return db
      .with(caller)
      .select({
        upload: datasetUploads,
        role: projectMembers.role,
        parts: sql<string>`(select json_group_array(json_array(n, etag)) from (
          select ${datasetUploadParts.n} as n, ${datasetUploadParts.etag} as etag from ${datasetUploadParts}
          where ${datasetUploadParts.uploadId} = ${datasetUploads.id} order by 1))`.as("parts"),
      })
      .from(caller)
      .leftJoin(datasetUploads, condition)
      .leftJoin(
        projectMembers,
        and(eq(projectMembers.projectId, datasetUploads.projectId), eq(projectMembers.userId, caller.id)),
      );
  };

  const toFound = (row: { upload: UploadRow | null; role: FoundUpload["role"]; parts: string }): FoundUpload => ({
    ...row,
    parts: PartsSchema.parse(JSON.parse(row.parts)).map(([n, etag]) => ({ n, etag })),
  });

  /** The upload if it is the caller's own, open, and the caller may still write into its project. */
  const ownOpen = (principal: Principal, uploadId: string) =>
    sql`${datasetUploads.id} = ${uploadId} and ${datasetUploads.state} = 'open'
      and ${datasetUploads.ownerId} = ${principal.userId} and ${mayWrite(principal, sql`${datasetUploads.projectId}`)}`;

  return {
    binding,

    /** Stores a new upload and its key; false when its owner has too many unfinished ones. @throws when the key is there already */
    async open(row: UploadRow, key: IdempotencyKey | null, maxOpen: number): Promise<boolean> {
      const { id, projectId, ownerId, name, description, format, visibility } = row;
      const [inserted] = await runBatch(binding, [
        sql`insert into ${datasetUploads} (id, project_id, owner_id, name, description, format, visibility, size_bytes,
            sha256, part_bytes, storage_upload_id, state, created_at, updated_at)
          select ${id}, ${projectId}, ${ownerId}, ${name}, ${description}, ${format}, ${visibility}, ${row.sizeBytes},
            ${row.sha256}, ${row.partBytes}, ${row.storageUploadId}, 'open', ${row.createdAt}, ${row.updatedAt}
          where (select count(*) from ${datasetUploads}
            where ${datasetUploads.ownerId} = ${ownerId} and ${datasetUploads.state} in ('open', 'assembled')) < ${maxOpen}`,
        ...(key === null
          ? []
          : rememberKey(
              ownerId,
              key,
              id,
              row.createdAt,
              sql`exists (select 1 from ${datasetUploads} where ${datasetUploads.id} = ${id})`,
            )),
      ]);
      return (inserted?.meta.changes ?? 0) > 0;
    },

    /** An upload with its parts and the caller's role in its project. Undefined: the caller is not valid. */
    async find(principal: Principal, uploadId: string): Promise<FoundUpload | undefined> {
      const [row] = await withParts(principal, eq(datasetUploads.id, uploadId));
      return row && toFound(row);
    },

    /** The caller's own uploads that are no dataset, the last touched first. No row at all: the caller is not valid. */
    async unfinished(principal: Principal, limit: number): Promise<FoundUpload[]> {
      const own = sql`${datasetUploads.ownerId} = ${principal.userId}
        and ${datasetUploads.state} in ('open', 'assembled', 'refused')`;
      const rows = await withParts(principal, own).orderBy(desc(datasetUploads.updatedAt)).limit(limit);
      return rows.map(toFound);
    },

    /**
     * The upload, and its part `n` forgotten if it may be written now and is to have `sizeBytes`: while the new bytes come
     * in, nobody can tell which ones storage has.
     */
    async beginPart(principal: Principal, uploadId: string, n: number, sizeBytes: number) {
      const [found] = await db.batch([
        withParts(principal, eq(datasetUploads.id, uploadId)),
        db.delete(datasetUploadParts).where(
          and(
            eq(datasetUploadParts.uploadId, uploadId),
            eq(datasetUploadParts.n, n),
            sql`exists (select 1 from ${datasetUploads} where ${ownOpen(principal, uploadId)} and ${sizeBytes} =
                min(${datasetUploads.partBytes}, ${datasetUploads.sizeBytes} - (${n} - 1) * ${datasetUploads.partBytes}))`,
          ),
        ),
      ]);
      return found[0] && toFound(found[0]);
    },

    /** Notes that a part arrived; false when the upload is not open any more. */
    async notePart(uploadId: string, { n, etag }: ReceivedPart, atMs: number): Promise<boolean> {
      const [noted] = await runBatch(binding, [
        sql`insert into ${datasetUploadParts} (upload_id, n, etag)
          select ${datasetUploads.id}, ${n}, ${etag} from ${datasetUploads}
          where ${datasetUploads.id} = ${uploadId} and ${datasetUploads.state} = 'open'
          on conflict do update set etag = excluded.etag`,
        db.update(datasetUploads).set({ updatedAt: atMs }).where(eq(datasetUploads.id, uploadId)),
      ]);
      return (noted?.meta.changes ?? 0) > 0;
    },

    async forgetParts(uploadId: string): Promise<void> {
      await db.delete(datasetUploadParts).where(eq(datasetUploadParts.uploadId, uploadId));
    },

    /** From open to assembled; false when it is not there any more. Repeating it changes nothing. */
    async assembled(uploadId: string, atMs: number): Promise<boolean> {
      const [moved] = await runBatch(binding, [
        sql`update ${datasetUploads} set state = 'assembled', updated_at = ${atMs}
          where id = ${uploadId} and state in ('open', 'assembled')`,
        sql`delete from ${datasetUploadParts} where upload_id = ${uploadId}`,
      ]);
      return (moved?.meta.changes ?? 0) > 0;
    },

    async exists(uploadId: string): Promise<boolean> {
      const [row] = await db
        .select({ id: datasetUploads.id })
        .from(datasetUploads)
        .where(eq(datasetUploads.id, uploadId))
        .limit(1);
      return row !== undefined;
    },

    /**
     * Notes why the zip cannot be a dataset and orders the removal of what was stored; false when it is not assembled (any
     * more), and then nothing changes.
     */
    async refuse(uploadId: string, refusal: UploadRefusal, atMs: number): Promise<boolean> {
      const [, refused] = await runBatch(binding, [
        noteRemoval(
          keys.datasetPrefix(uploadId),
          atMs,
          sql`exists (select 1 from ${datasetUploads} where id = ${uploadId} and state = 'assembled')`,
        ),
        sql`update ${datasetUploads} set state = 'refused', refusal = ${JSON.stringify(refusal)}, updated_at = ${atMs}
          where id = ${uploadId} and state = 'assembled'`,
      ]);
      return (refused?.meta.changes ?? 0) > 0;
    },

    /** Deletes an upload that became no dataset, if it is the caller's own; `found` is what was there before. */
    async remove(principal: Principal, uploadId: string, atMs: number) {
      const doomed = sql`select ${datasetUploads.id} from ${datasetUploads} where ${datasetUploads.id} = ${uploadId}
        and ${datasetUploads.state} <> 'completed' and ${datasetUploads.ownerId} = ${principal.userId}
        and ${mayWrite(principal, sql`${datasetUploads.projectId}`)}`;
      const found = await this.find(principal, uploadId);
      const results = await runBatch(binding, [
        sql`delete from ${datasetUploadParts} where upload_id = (${doomed})`,
        noteRemoval(keys.datasetPrefix(uploadId), atMs, sql`exists (${doomed})`),
        sql`delete from ${datasetUploads} where id = (${doomed})`,
      ]);
      return { found, isRemoved: (results[2]?.meta.changes ?? 0) > 0 };
    },

    /** Uploads without a sign of life since `beforeMs`, the oldest first. */
    async expired(beforeMs: number, limit: number): Promise<UploadRow[]> {
      return db
        .select()
        .from(datasetUploads)
        .where(lt(datasetUploads.updatedAt, beforeMs))
        .orderBy(asc(datasetUploads.updatedAt))
        .limit(limit);
    },

    /** Uploads into a project, in any state. */
    async ofProject(projectId: number, limit: number): Promise<UploadRow[]> {
      return db.select().from(datasetUploads).where(eq(datasetUploads.projectId, projectId)).limit(limit);
    },

    /** Deletes an upload unless something happened to it since the row was read; of a dataset only the upload's row goes. */
    async removeUnchanged({ id, updatedAt }: UploadRow, atMs: number): Promise<boolean> {
      const same = sql`${datasetUploads.id} = ${id} and ${datasetUploads.updatedAt} = ${updatedAt}`;
      const results = await runBatch(binding, [
        sql`delete from ${datasetUploadParts} where upload_id = (select id from ${datasetUploads} where ${same})`,
        noteRemoval(
          keys.datasetPrefix(id),
          atMs,
          sql`exists (select 1 from ${datasetUploads} where ${same} and ${datasetUploads.state} <> 'completed')`,
        ),
        sql`delete from ${datasetUploads} where ${same}`,
      ]);
      return (results[2]?.meta.changes ?? 0) > 0;
    },
  };
}
