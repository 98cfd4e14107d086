/**
 * A fitted model as bytes, so that it is fitted on write and only read on request.
 *
 * Layout: "CVBM", format number (uint32), header length (uint32), header as UTF-8 JSON padded with spaces to 8 bytes,
 * then little-endian float64 numbers: per trait z, column, record keys, record means, record replicates, and per
 * component θ and packed Σ. This is a persisted shape: a change needs a new format number.
 */
import { fail, ok, type Result } from "../../shared/result.ts";
import type { BreedingModel } from "./breeding-model.ts";
import { FIRST_G, type PosteriorComponent, type TraitFit } from "./model.ts";
import { MODEL_TRAITS, type ModelTrait } from "./traits.ts";

const MAGIC = "CVBM";
const FORMAT = 1;
const PREFIX_BYTES = 12;

type Header = Omit<BreedingModel, "fits"> & {
  ids: readonly string[];
  fits: Record<
    ModelTrait,
    Pick<TraitFit, "prior" | "panel"> & {
      crossed: number;
      records: number;
      components: Pick<PosteriorComponent, "weight" | "sg2" | "se2">[];
    }
  >;
};

/** Numbers per component of a fit with so many crossed strains. */
const parameters = (crossed: number) => {
  const p = FIRST_G + crossed;
  return { theta: p, sigma: (p * (p + 1)) / 2 };
};

/** The model as bytes. Decoding gives a model with the same predictions to the last bit. */
export function encodeModel(model: BreedingModel): Uint8Array<ArrayBuffer> {
  const { fits, ...rest } = model;
  const numbers: ArrayLike<number>[] = [];
  const header: Header = { ...rest, ids: fits.weight.ids, fits: {} as Header["fits"] };
  for (const trait of MODEL_TRAITS) {
    const { prior, panel, z, column, records, components } = fits[trait];
    const pooled = [...records.values()];
    header.fits[trait] = {
      prior,
      panel,
      crossed: column.reduce((sum, c) => sum + Number(c >= 0), 0),
      records: records.size,
      components: components.map(({ weight, sg2, se2 }) => ({ weight, sg2, se2 })),
    };
    numbers.push(
      z,
      column,
      [...records.keys()],
      pooled.map((r) => r.y),
      pooled.map((r) => r.n),
    );
    for (const c of components) numbers.push(c.theta, c.sigma);
  }

  const text = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil((PREFIX_BYTES + text.length) / 8) * 8 - PREFIX_BYTES;
  const count = numbers.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array(PREFIX_BYTES + headerBytes + count * 8);
  bytes.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(bytes.buffer);
  view.setUint32(4, FORMAT, true);
  view.setUint32(8, headerBytes, true);
  bytes.fill(0x20, PREFIX_BYTES, PREFIX_BYTES + headerBytes);
  bytes.set(text, PREFIX_BYTES);
  const body = new Float64Array(bytes.buffer, PREFIX_BYTES + headerBytes);
  let at = 0;
  for (const part of numbers) {
    body.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** The model that {@link encodeModel} wrote. Fails, instead of predicting nonsense, for other or damaged bytes. */
export function decodeModel(bytes: Uint8Array): Result<BreedingModel> {
  const damaged = (why: string) => fail("MODEL_UNREADABLE", `stored model cannot be read: ${why}`);
  if (bytes.length < PREFIX_BYTES || new TextDecoder().decode(bytes.subarray(0, 4)) !== MAGIC)
    return damaged("no model");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(4, true) !== FORMAT) return damaged(`format ${view.getUint32(4, true)}`);
  const bodyStart = PREFIX_BYTES + view.getUint32(8, true);
  if (bodyStart > bytes.length || (bytes.length - bodyStart) % 8 !== 0) return damaged("cut off");

  let header: Header;
  try {
    // Written by encodeModel under the same format number, which is what vouches for the type.
    header = JSON.parse(
      new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes.subarray(PREFIX_BYTES, bodyStart)),
    );
  } catch {
    return damaged("header");
  }
  const { ids, fits, ...rest } = header;
  // A copy, because the numbers need an aligned buffer and the caller keeps its bytes.
  const body = new Float64Array(bytes.slice(bodyStart).buffer);
  const expected = MODEL_TRAITS.reduce((sum, trait) => {
    const { theta, sigma } = parameters(fits[trait].crossed);
    return sum + 2 * ids.length + 3 * fits[trait].records + fits[trait].components.length * (theta + sigma);
  }, 0);
  if (body.length !== expected) return damaged(`${body.length} numbers where ${expected} belong`);

  let at = 0;
  const take = (count: number) => {
    at += count;
    return body.subarray(at - count, at);
  };
  const index = new Map(ids.map((id, i) => [id, i]));
  const readFit = (trait: ModelTrait): TraitFit => {
    const { prior, panel, crossed, records: recordCount, components } = fits[trait];
    const size = parameters(crossed);
    const z = take(ids.length);
    const column = Int32Array.from(take(ids.length));
    const [keys, means, replicates] = [take(recordCount), take(recordCount), take(recordCount)];
    const records = new Map(Array.from(keys, (key, r) => [key, { y: means[r] ?? 0, n: replicates[r] ?? 0 }] as const));
    const read = components.map((c) => ({ ...c, theta: take(size.theta), sigma: take(size.sigma) }));
    return { prior, panel, ids, index, z, column, records, components: read };
  };
  const decoded = Object.fromEntries(MODEL_TRAITS.map((trait) => [trait, readFit(trait)])) as BreedingModel["fits"];
  return ok({ ...rest, fits: decoded });
}
