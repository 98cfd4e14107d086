import fixtures from "./fixtures.json" with { type: "json" };

/** 24 x 16 pixels in flat quarters (widths 16 and 8, heights 8 and 8), by `make.ts`; the colours by quarter. */
export const QUARTERS = {
  topLeft: [220, 30, 40],
  topRight: [20, 200, 60],
  bottomLeft: [30, 60, 210],
  bottomRight: [128, 128, 128],
};

export type FixtureName = keyof typeof fixtures;

export const fixtureNames = Object.keys(fixtures) as FixtureName[];

/** The bytes of a fixture file. */
export const imageFixture = (name: FixtureName): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(fixtures[name]), (character) => character.charCodeAt(0));
