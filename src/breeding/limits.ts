/** How much data the platform takes. A fit grows with the cube of the crossed strains, a ranking with the square of all. */
export const BREEDING_LIMITS = {
  /** 124,750 crosses: a ranking takes about half a second of CPU time, suggestions about two. */
  strains: 500,
  observations: 5_000,
  /** Strains that occur in observations: a fit of 300 takes about two seconds. */
  crossedStrains: 300,
  /** Of one file. */
  importBytes: 4 * 1024 * 1024,
  pictureBytes: 4 * 1024 * 1024,
} as const;
