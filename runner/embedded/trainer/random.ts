/**
 * Random numbers that depend on nothing but their key: the same key gives the same sequence on every machine. A run
 * draws each epoch and each batch from a key of their own, so that going on in the middle needs no stored generator.
 * Pure.
 */

/** The next number of a sequence, 0 <= x < 1. */
export type Random = () => number;

/** What a sequence is for; a part of its key, so that no two uses share numbers. */
export const STREAM = { weights: 1, order: 2, augmentation: 3, split: 4 } as const;

/** 32-bit integer hash (finalizer of MurmurHash3, Austin Appleby, public domain). */
function mix(value: number): number {
  let hash = value | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** The sequence of a key of integers (sfc32, Chris Doty-Humphrey's PractRand: 128 bits of state). */
export function createRandom(...key: number[]): Random {
  let a = 0x9e3779b9;
  let b = 0x243f6a88;
  let c = 0xb7e15162;
  let counter = 1;
  for (const part of key) {
    // Both halves count: seeds may be larger than 32 bits.
    a = mix(a ^ part);
    b = mix(b ^ a ^ Math.floor(part / 4_294_967_296));
    c = mix(c + b);
  }
  const next = () => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return (sum >>> 0) / 4_294_967_296;
  };
  for (let round = 0; round < 12; round += 1) next(); // the first outputs still look like the key
  return next;
}

/** A number from the standard normal distribution (Box-Muller). */
export function gaussian(random: Random): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random()));
  return radius * Math.cos(2 * Math.PI * random());
}

/** 0 … count - 1 in random order (Fisher-Yates). */
export function permutation(count: number, random: Random): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last -= 1) {
    const chosen = Math.floor(random() * (last + 1));
    const kept = order[last] ?? 0;
    order[last] = order[chosen] ?? 0;
    order[chosen] = kept;
  }
  return order;
}
