import { fail, ok, type Result } from "../../shared/result.ts";
import generic from "./priors/generic.json" with { type: "json" };
import tomato from "./priors/tomato.json" with { type: "json" };
import type { ModelTrait } from "./traits.ts";

/**
 * Prior of one trait, in units of the panel SD: c ~ N(h0, th²) heterosis, β ~ N(b0, tb²) slope on the mid-parent,
 * δ ~ N(d0, td²) directional dominance, ln σg² ~ N(lg_mu, lg_sd²), ln σε² ~ N(le_mu, le_sd²), phi = share of SCA in σε²,
 * tol = half-width of "close" for the confidence. Field names are those of the JSON files.
 */
export interface TraitPrior {
  h0: number;
  th: number;
  b0: number;
  tb: number;
  d0: number;
  td: number;
  lg_mu: number;
  lg_sd: number;
  le_mu: number;
  le_sd: number;
  phi: number;
  tol: number;
}

/** Variance components tried: every pair (σg², σε²) is one component of the posterior mixture. */
export interface VarianceGrid {
  sg2: readonly number[];
  se2: readonly number[];
}

/** The dense grid of the accuracy tests and the coarse one that serves requests (within 0.009 nRMSE of it). */
export const GRID: { reference: VarianceGrid; production: VarianceGrid } = generic.grid;

/** One prior for every crop and trait; used where nothing about the crop is known. */
export const GENERIC_PRIOR: TraitPrior = generic;

/** k hardly varies between tomatoes, so its prior is tight (judgement). */
const K_PRIOR: TraitPrior = {
  h0: 0,
  th: 0.3,
  b0: 0.8,
  tb: 0.1,
  d0: 0,
  td: 0.1,
  lg_mu: -3,
  lg_sd: 1,
  le_mu: -0.7,
  le_sd: 0.8,
  phi: 0.3,
  tol: 0.5,
};

/** Expert judgement from the tomato literature, not fitted to tomato F1 data; recorded crosses override it. */
export const TOMATO_PRIORS: Record<ModelTrait, TraitPrior> = {
  weight: tomato.weight,
  ratio: tomato.ratio,
  k: K_PRIOR,
  sugarContent: tomato.sugarContent,
  firmness: tomato.firmness,
  skinThickness: tomato.skinThickness,
};

const FIELDS = ["h0", "th", "b0", "tb", "d0", "td", "lg_mu", "lg_sd", "le_mu", "le_sd", "phi", "tol"] as const;
const POSITIVE: readonly string[] = ["th", "tb", "td", "lg_sd", "le_sd", "tol"];

/** Reads one prior from parsed JSON; the error names the field at fault. */
export function parsePrior(input: unknown): Result<TraitPrior> {
  if (typeof input !== "object" || input === null) return fail("VALIDATION_ERROR", "a prior must be a JSON object");
  const prior: Partial<TraitPrior> = {};
  for (const field of FIELDS) {
    const value: unknown = Reflect.get(input, field);
    if (typeof value !== "number" || !Number.isFinite(value)) {
      return fail("VALIDATION_ERROR", `prior field ${field} must be a finite number`, field);
    }
    if (POSITIVE.includes(field) && value <= 0) {
      return fail("VALIDATION_ERROR", `prior field ${field} must be greater than 0`, field);
    }
    prior[field] = value;
  }
  const { phi = 0 } = prior;
  if (phi < 0 || phi >= 1) return fail("VALIDATION_ERROR", "prior field phi must be at least 0 and below 1", "phi");
  return ok(prior as TraitPrior);
}
