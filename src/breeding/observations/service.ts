import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import { AppError } from "../../shared/errors.ts";
import { randomHex, sha256Hex } from "../../shared/ids.ts";
import { isoMillis } from "../../shared/time.ts";
import type { Caller } from "../caller.ts";
import { forecastObservation } from "../genetics/calibration.ts";
import { FRUIT_TRAITS, type Phenotype } from "../genetics/traits.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { refuse, strainNotFound } from "../messages.ts";
import type { LoadedModel, ModelStore } from "../model/store.ts";
import { combinationId, roleProblem } from "../predictions/combination.ts";
import { type StrainRow, toGenetic } from "../strains/record.ts";
import { FILE_FAULTS, type ImportIssue } from "../trait-table.ts";
import { type ObservationRecord, readObservationCsv } from "./csv.ts";
import type { ObservationRepository, StoredObservation } from "./repository.ts";

export type ObservationService = ReturnType<typeof createObservationService>;

const ID = /^OBS_\d{13}_[0-9a-f]{8}$/;
const INTERVAL_LEVEL = 0.8;

const round4 = (value: number): number => Math.round(value * 1e4) / 1e4;

const notFound = () => new AppError("OBSERVATION_NOT_FOUND", "관측 기록을 찾을 수 없습니다");

const noRoom = () =>
  refuse(
    `관측 기록은 최대 ${BREEDING_LIMITS.observations}건, 관측된 부모 계통은 최대 ${BREEDING_LIMITS.crossedStrains}개까지 저장할 수 있습니다`,
  );

const toObservation = (stored: StoredObservation) => ({
  id: stored.id,
  combinationId: combinationId(stored),
  femaleStrainId: stored.femaleId,
  maleStrainId: stored.maleId,
  n: stored.n,
  season: stored.season,
  environment: stored.environment,
  phenotype: stored.phenotype,
  createdAt: isoMillis(stored.createdAt),
  forecasts: FRUIT_TRAITS.flatMap((trait) => stored.forecasts.filter((forecast) => forecast.trait === trait)).map(
    ({ trait, predicted, lower, upper, confidence, observed, hit, covered, modelVersion }) => ({
      trait,
      predicted: round4(predicted),
      interval: { lower: round4(lower), upper: round4(upper), level: INTERVAL_LEVEL },
      confidence: round4(confidence),
      observed: round4(observed),
      hit,
      covered,
      modelVersion,
    }),
  ),
});

export type ObservationInput = {
  femaleStrainId: string;
  maleStrainId: string;
  phenotype: { [Trait in keyof Phenotype]?: Phenotype[Trait] };
  n: number;
  season: string | null;
  environment: string | null;
};

export function createObservationService(deps: {
  observations: ObservationRepository;
  models: ModelStore;
  now: () => number;
}) {
  const { observations, models, now } = deps;

  /** A record with what the model, which does not know it yet, says about it. */
  function withForecasts(
    loaded: LoadedModel,
    record: ObservationRecord,
    parents: { female: StrainRow; male: StrainRow },
    id: string,
    createdAt: number,
  ): StoredObservation {
    const forecasts = forecastObservation(loaded.model, toGenetic(parents.female), toGenetic(parents.male), record);
    return { ...record, id, createdAt, forecasts: forecasts.map((f) => ({ ...f, modelVersion: loaded.version })) };
  }

  return {
    /**
     * Records one measured cross. What the model predicts for it is kept first, then the model is fitted anew.
     * @throws STRAIN_NOT_FOUND · VALIDATION_ERROR for a parent in the wrong role, or when there is no room
     */
    async create(principal: Principal, input: ObservationInput) {
      const { femaleStrainId: femaleId, maleStrainId: maleId, phenotype, ...rest } = input;
      const context = await observations.context(principal, [femaleId, maleId]);
      if (context === undefined) throw unauthorized();
      const female = context.strains.get(femaleId);
      const male = context.strains.get(maleId);
      if (female === undefined || male === undefined) throw strainNotFound();
      const problem = roleProblem(female, male);
      if (problem !== null) throw refuse(problem);
      const loaded = await models.load(context.state);
      const at = now();
      const record: ObservationRecord = {
        ...rest,
        femaleId,
        maleId,
        phenotype: {
          weight: phenotype.weight ?? null,
          length: phenotype.length ?? null,
          width: phenotype.width ?? null,
          ratio: phenotype.ratio ?? null,
          sugarContent: phenotype.sugarContent ?? null,
          firmness: phenotype.firmness ?? null,
          skinThickness: phenotype.skinThickness ?? null,
          shape: phenotype.shape ?? null,
        },
      };
      const stored = withForecasts(loaded, record, { female, male }, `OBS_${at}_${randomHex(4)}`, at);
      const outcome = await observations.save(principal, [stored], null, at);
      if (!outcome.caller) throw unauthorized();
      if (outcome.stored === 0) throw noRoom();
      await models.refit();
      return toObservation(stored);
    },

    async list(caller: Caller, query: { page: number; limit: number; sort: "asc" | "desc"; strainId?: string }) {
      const page = await observations.page(caller, query);
      if (page === undefined) throw unauthorized();
      return { observations: page.observations.map(toObservation), total: page.total };
    },

    /** @throws OBSERVATION_NOT_FOUND · FORBIDDEN */
    async remove(principal: Principal, id: string) {
      const outcome = await observations.remove(principal, ID.test(id) ? id : "", now());
      if (!outcome.caller) throw unauthorized();
      if (!outcome.known) throw notFound();
      if (!outcome.removed) throw new AppError("FORBIDDEN", "다른 사용자가 등록한 관측 기록은 삭제할 수 없습니다");
      await models.refit();
      return { id };
    },

    /**
     * Records the crosses of a file that are in order, with one fit for all. The same file a second time changes nothing.
     * @throws VALIDATION_ERROR for a file that cannot be read at all, or when there is no room
     */
    async importCsv(principal: Principal, bytes: Uint8Array<ArrayBuffer>, options: { dryRun: boolean }) {
      const parsed = readObservationCsv(bytes);
      const fault = parsed.refused.find((issue) => FILE_FAULTS.has(issue.code));
      if (fault) throw refuse(`${fault.line}행: ${fault.message}`);
      const context = await observations.context(principal, null);
      if (context === undefined) throw unauthorized();

      const refused: ImportIssue[] = [...parsed.refused];
      const usable = parsed.accepted.flatMap(({ line, observation }) => {
        const female = context.strains.get(observation.femaleId);
        const male = context.strains.get(observation.maleId);
        const unknown = female === undefined ? observation.femaleId : observation.maleId;
        if (female === undefined || male === undefined) {
          refused.push({ line, column: null, code: "PARENT_UNKNOWN", message: `등록되지 않은 계통입니다: ${unknown}` });
          return [];
        }
        const problem = roleProblem(female, male);
        if (problem !== null) refused.push({ line, column: null, code: "ROLE", message: problem });
        return problem === null ? [{ observation, female, male }] : [];
      });
      refused.sort((a, b) => a.line - b.line);
      const report = (accepted: number, alreadyImported: boolean) => ({
        dryRun: options.dryRun,
        alreadyImported,
        encoding: parsed.encoding,
        total: parsed.total,
        accepted,
        refused,
        warnings: parsed.warnings,
      });

      const importId = await sha256Hex(bytes);
      if (options.dryRun || usable.length === 0) {
        const repeated = await observations.isImported(principal, importId);
        if (repeated === undefined) throw unauthorized();
        return report(repeated ? 0 : usable.length, repeated);
      }
      const loaded = await models.load(context.state);
      const at = now();
      const batch = randomHex(2);
      const stored = usable.map(({ observation, female, male }, row) =>
        withForecasts(
          loaded,
          observation,
          { female, male },
          `OBS_${at}_${batch}${row.toString(16).padStart(4, "0")}`,
          at,
        ),
      );
      const outcome = await observations.save(principal, stored, importId, at);
      if (!outcome.caller) throw unauthorized();
      if (outcome.full) throw noRoom();
      if (!outcome.repeated) await models.refit();
      return report(outcome.stored, outcome.repeated);
    },
  };
}
