import { type SQL, sql } from "drizzle-orm";
import { runBatch } from "../../db/batch.ts";
import type { FruitView } from "./fruit-svg.ts";

export type PictureRepository = ReturnType<typeof createPictureRepository>;

/** A picture of a cross that has an address. */
export type KnownPicture = {
  month: string;
  sequence: number;
  contentKey: string;
  view: FruitView;
  engine: string;
  /** Whether the object is there: an address is given first. */
  stored: boolean;
};

export type NewPicture = { contentKey: string; view: FruitView; engine: string };

/** Newest pictures of a cross that a prediction looks at for one to reuse. */
const LOOK_BACK = 40;

type PictureJson = [
  month: string,
  sequence: number,
  contentKey: string,
  view: FruitView,
  engine: string,
  stored: number,
];

const pictureJson = sql`json_array(month, sequence, content_key, view, engine, stored_at is not null)`;

/** The pictures of a cross as one JSON column of a larger query. */
export const knownPicturesSql = (stem: string): SQL => sql`(select json_group_array(json(p)) from
  (select ${pictureJson} as p from cross_pictures where stem = ${stem} order by month desc, sequence desc limit ${LOOK_BACK}))`;

export const readKnownPictures = (json: string): KnownPicture[] =>
  (JSON.parse(json) as PictureJson[]).map(([month, sequence, contentKey, view, engine, stored]) => ({
    month,
    sequence,
    contentKey,
    view,
    engine,
    stored: stored === 1,
  }));

/** Says that the objects of these pictures are there. */
export const markStored = (stem: string, contentKeys: readonly string[], now: number): SQL =>
  sql`update cross_pictures set stored_at = ${now}
      where stem = ${stem} and content_key in (select value from json_each(${JSON.stringify(contentKeys)}))`;

export function createPictureRepository(binding: D1Database) {
  return {
    /**
     * Gives each new picture the next free number of its stem and month, in one batch. A picture that somebody else added
     * meanwhile keeps the number it has.
     */
    async allocate(stem: string, month: string, pictures: readonly NewPicture[], now: number): Promise<KnownPicture[]> {
      const results = await runBatch(binding, [
        ...pictures.map(
          ({ contentKey, view, engine }) => sql`
            insert into cross_pictures (stem, month, sequence, content_key, view, engine, created_at)
            select ${stem}, ${month},
              coalesce((select max(sequence) from cross_pictures where stem = ${stem} and month = ${month}), 0) + 1,
              ${contentKey}, ${view}, ${engine}, ${now}
            where true on conflict (stem, content_key) do nothing`,
        ),
        sql`select json_group_array(json(p)) as pictures from (select ${pictureJson} as p from cross_pictures
            where stem = ${stem} and content_key in
              (select value from json_each(${JSON.stringify(pictures.map((picture) => picture.contentKey))})))`,
      ]);
      return readKnownPictures(String(results.at(-1)?.results[0]?.pictures ?? "[]"));
    },
  };
}
