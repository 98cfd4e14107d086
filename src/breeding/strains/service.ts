import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { Content } from "../../http/content.ts";
import { AppError } from "../../shared/errors.ts";
import { errorText, logger } from "../../shared/logger.ts";
import type { Caller } from "../caller.ts";
import type { Phenotype } from "../genetics/traits.ts";
import type { PictureService } from "../images/service.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { refuse, strainNotFound } from "../messages.ts";
import type { ModelStore } from "../model/store.ts";
import { FILE_FAULTS, type ImportIssue } from "../trait-table.ts";
import { isStrainId, readStrainCsv, type StrainRecord, writeStrainCsv } from "./csv.ts";
import { phenotypeOf, toRecord, toStrain } from "./record.ts";
import type { StrainFilter, StrainRepository, StrainWrite } from "./repository.ts";

export type StrainService = ReturnType<typeof createStrainService>;

type StrainInput = {
  name?: string;
  type: StrainRecord["type"];
  phenotype: Phenotype;
  shapeKo?: string | null;
  source?: string;
};

const DEFAULT_SOURCE = { created: "api", imported: "csv import" };

const noRoom = () => refuse(`계통은 최대 ${BREEDING_LIMITS.strains}개까지 등록할 수 있습니다`);

/** Why a strain was not changed. */
const denied = (found: { caller: boolean; known: boolean }): AppError => {
  if (!found.caller) return unauthorized();
  if (!found.known) return strainNotFound();
  return new AppError("FORBIDDEN", "다른 사용자가 등록한 계통은 변경할 수 없습니다");
};

const toStrainRecord = (id: string, input: StrainInput): StrainRecord => ({
  id,
  name: input.name ?? id,
  type: input.type,
  phenotype: input.phenotype,
  shapeKo: input.shapeKo || null,
});

export function createStrainService(deps: {
  strains: StrainRepository;
  models: ModelStore;
  pictures: PictureService;
  now: () => number;
}) {
  const { strains, models, pictures, now } = deps;

  /** The row of a write that was done. */
  function written(write: StrainWrite) {
    if (write.row === null) throw denied(write);
    return write.row;
  }

  async function find(caller: Caller, id: string) {
    const row = isStrainId(id) ? await strains.get(caller, id) : await strains.get(caller, "");
    if (row === undefined) throw unauthorized();
    if (row === null) throw strainNotFound();
    return row;
  }

  /** Pictures that nothing points to any more. What stays behind costs storage only, so a failure is not the caller's. */
  async function cleanUp(work: Promise<void>): Promise<void> {
    await work.catch((thrown: unknown) => logger.warn("picture_not_removed", { error: errorText(thrown) }));
  }

  return {
    /** @throws UNAUTHORIZED in phase 2 */
    async list(caller: Caller, filter: StrainFilter) {
      const rows = await strains.list(caller, filter);
      if (rows === undefined) throw unauthorized();
      return rows.map(toStrain);
    },

    /** @throws STRAIN_NOT_FOUND */
    async get(caller: Caller, id: string) {
      return toStrain(await find(caller, id));
    },

    /** All strains as a file that imports back identically. */
    async exportCsv(caller: Caller): Promise<string> {
      const rows = await strains.list(caller, {});
      if (rows === undefined) throw unauthorized();
      return writeStrainCsv(rows.map(toRecord));
    },

    /** @throws VALIDATION_ERROR for an id that is taken, or when there is no room */
    async create(principal: Principal, input: StrainInput & { id: string }) {
      const record = toStrainRecord(input.id, input);
      const write = await strains.create(principal, record, input.source ?? DEFAULT_SOURCE.created, now());
      if (!write.caller) throw unauthorized();
      if (write.known) throw new AppError("ALREADY_EXISTS", `이미 등록된 계통 ID입니다: ${input.id}`, { field: "id" });
      if (write.row === null) throw noRoom();
      await models.refit();
      return toStrain(write.row);
    },

    /** Replaces what is known about a strain. @throws STRAIN_NOT_FOUND · FORBIDDEN */
    async update(principal: Principal, id: string, input: StrainInput) {
      const row = written(await strains.update(principal, toStrainRecord(id, input), input.source ?? null, now()));
      await models.refit();
      return toStrain(row);
    },

    /** @throws STRAIN_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR while measured crosses of the strain are recorded */
    async remove(principal: Principal, id: string) {
      const write = await strains.remove(principal, id, now());
      if (write.known && write.row === null && write.records > 0) {
        throw refuse(`관측 기록 ${write.records}건이 있는 계통은 삭제할 수 없습니다`);
      }
      written(write);
      await Promise.all([models.refit(), cleanUp(pictures.forgetStrain(id))]);
      return { id };
    },

    /**
     * Reads a file of strains and stores the rows that are in order.
     * @throws VALIDATION_ERROR for a file that cannot be read at all · UNAUTHORIZED
     */
    async importCsv(
      principal: Principal,
      bytes: Uint8Array,
      options: { allowMissing: boolean; dryRun: boolean; source?: string },
    ) {
      const parsed = readStrainCsv(bytes, { allowMissing: options.allowMissing });
      const fault = parsed.refused.find((issue) => FILE_FAULTS.has(issue.code));
      if (fault) throw refuse(`${fault.line}행: ${fault.message}`);
      const refused: ImportIssue[] = [...parsed.refused];
      const notAllowed = (line: number, id: string): ImportIssue => ({
        line,
        column: null,
        code: "NOT_ALLOWED",
        message: `다른 사용자가 등록한 계통은 변경할 수 없습니다: ${id}`,
      });
      const report = (stored: ReadonlyMap<string, "created" | "updated">) => {
        for (const { line, strain } of parsed.accepted) {
          if (!stored.has(strain.id)) refused.push(notAllowed(line, strain.id));
        }
        refused.sort((a, b) => a.line - b.line);
        const count = (kind: string) => [...stored.values()].filter((value) => value === kind).length;
        return {
          dryRun: options.dryRun,
          encoding: parsed.encoding,
          total: parsed.total,
          accepted: stored.size,
          created: count("created"),
          updated: count("updated"),
          refused,
          warnings: parsed.warnings,
        };
      };

      const records = parsed.accepted.map(({ strain }) => strain);
      if (options.dryRun || records.length === 0) {
        const known = await strains.known(
          principal,
          records.map((record) => record.id),
        );
        if (known === undefined) throw unauthorized();
        const would = records.flatMap(({ id }): [string, "created" | "updated"][] => {
          const allowed = known.get(id);
          return allowed === undefined ? [[id, "created"]] : allowed ? [[id, "updated"]] : [];
        });
        return report(new Map(would));
      }
      const outcome = await strains.importAll(principal, records, options.source ?? DEFAULT_SOURCE.imported, now());
      if (outcome === undefined) throw unauthorized();
      if (outcome.stored.size === 0 && outcome.full) throw noRoom();
      if (outcome.stored.size > 0) await models.refit();
      return report(outcome.stored);
    },

    /**
     * Stores the caller's own picture of a strain.
     * @throws STRAIN_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR; nothing stays behind then
     */
    async setPicture(principal: Principal, id: string, bytes: Uint8Array<ArrayBuffer>) {
      const allowed = await strains.known(principal, [id]);
      if (allowed === undefined) throw unauthorized();
      if (allowed.get(id) !== true) throw denied({ caller: true, known: allowed.has(id) });
      const key = await pictures.keepUpload(id, bytes);
      const write = await strains.setPicture(principal, id, key, now());
      if (write.row === null) await cleanUp(pictures.forget(key));
      else if (write.formerKey !== null && write.formerKey !== key) await cleanUp(pictures.forget(write.formerKey));
      return toStrain(written(write));
    },

    /** Goes back to the drawn picture. @throws STRAIN_NOT_FOUND · FORBIDDEN */
    async removePicture(principal: Principal, id: string) {
      const write = await strains.setPicture(principal, id, null, now());
      const row = written(write);
      if (write.formerKey !== null) await cleanUp(pictures.forget(write.formerKey));
      return toStrain(row);
    },

    /** The picture behind a strain's `imageUrl`; open to everybody, like the address. @throws FILE_NOT_FOUND */
    async picture(id: string): Promise<Content> {
      const row = isStrainId(id) ? await strains.get(null, id) : null;
      if (!row) throw new AppError("FILE_NOT_FOUND", "이미지를 찾을 수 없습니다");
      return pictures.strainContent({ id: row.id, phenotype: phenotypeOf(row), imageKey: row.image_key });
    },
  };
}
