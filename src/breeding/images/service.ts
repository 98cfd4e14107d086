import type { ByteRange, Content } from "../../http/content.ts";
import { AppError } from "../../shared/errors.ts";
import { sha256Hex, toHex } from "../../shared/ids.ts";
import { logger } from "../../shared/logger.ts";
import { keys } from "../../storage/keys.ts";
import type { Phenotype } from "../genetics/traits.ts";
import { appearanceOf, type FruitAppearance, type FruitView, renderFruitSvg, seedOf } from "./fruit-svg.ts";
import type { Painter, PaintFailure } from "./painter.ts";
import { photoSvg, readPhotoHeader } from "./photo.ts";
import {
  drawingManifest,
  monthOf,
  PICTURE_PX,
  paintingManifest,
  pictureFile,
  pictureUrl,
  readPicturePath,
  stemOf,
} from "./pictures.ts";
import { fruitPrompt } from "./prompt.ts";
import type { KnownPicture, NewPicture, PictureRepository } from "./repository.ts";

export type PictureService = ReturnType<typeof createPictureService>;

/** SVG to PNG; null with `orNothing` where nothing was drawn. */
export type Rasterize = (svg: string, options?: { orNothing?: boolean }) => Promise<Uint8Array<ArrayBuffer> | null>;

/** Asked before every painting: whether one more belongs to today's budget. */
export type PaintBudget = (now: number) => Promise<boolean>;

export const EMBEDDED = "embedded";

/** One picture of an answer. */
export type CrossPicture = { url: string; view: FruitView; engine: string };

/** Why a picture was drawn although painting is switched on. */
export type PaintFallback = PaintFailure | "daily_budget";

export type CrossPictures = {
  pictures: CrossPicture[];
  fallback: PaintFallback | null;
  /** Identities of pictures whose objects are new, to be marked as stored. */
  stem: string;
  fresh: string[];
};

/** One picture on its way: what it is and how to make it. */
type Draft = NewPicture & { make: () => Promise<Uint8Array<ArrayBuffer>> };

export function createPictureService(deps: {
  pictures: PictureRepository;
  bucket: R2Bucket;
  rasterize: Rasterize;
  /** Absent: every picture is drawn. */
  painter?: { painter: Painter; budget: PaintBudget };
  now: () => number;
}) {
  const { pictures, bucket, rasterize, now } = deps;

  const unreadable = () => new AppError("STORAGE_UNAVAILABLE", "저장된 이미지를 지금 읽을 수 없습니다");

  async function draw(appearance: FruitAppearance, view: FruitView, seed: number): Promise<Uint8Array<ArrayBuffer>> {
    const png = await rasterize(renderFruitSvg(appearance, { view, seed, size: PICTURE_PX }));
    if (png === null) throw new Error("nothing was drawn");
    return png;
  }

  async function drawing(appearance: FruitAppearance, view: FruitView, seed: number): Promise<Draft> {
    return {
      view,
      engine: EMBEDDED,
      contentKey: await sha256Hex(drawingManifest(appearance, view, seed)),
      make: () => draw(appearance, view, seed),
    };
  }

  /** The painted outside view: one that exists, or a new one if budget and model allow it; else why not. */
  async function painting(
    appearance: FruitAppearance,
    pair: string,
    known: readonly KnownPicture[],
  ): Promise<Draft | PaintFallback | null> {
    if (deps.painter === undefined) return null;
    const { painter, budget } = deps.painter;
    const prompt = fruitPrompt(appearance);
    const contentKey = await sha256Hex(paintingManifest(painter.model, prompt, pair));
    const draft = { view: "outside" as const, engine: painter.model, contentKey };
    const exists = known.some((picture) => picture.contentKey === contentKey && picture.stored);
    if (exists) return { ...draft, make: () => Promise.reject(new Error("exists")) };
    if (!(await budget(now()))) return "daily_budget";
    const painted = await painter.paint(prompt);
    if (!painted.ok) {
      logger.warn("painting_failed", {
        model: painter.model,
        reason: painted.error.code,
        error: painted.error.message,
      });
      return painted.error.code;
    }
    const header = readPhotoHeader(painted.value);
    const png = header.ok
      ? await rasterize(photoSvg(painted.value, header.value, PICTURE_PX), { orNothing: true })
      : null;
    if (png === null) return "error";
    return { ...draft, make: () => Promise.resolve(png) };
  }

  /** Stored under its address, once: whoever comes second keeps what is there. */
  async function store(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await bucket.put(key, bytes, {
      onlyIf: { etagDoesNotMatch: "*" },
      sha256: await crypto.subtle.digest("SHA-256", bytes),
      httpMetadata: { contentType: "image/png" },
    });
  }

  async function contentOf(key: string): Promise<Content | null> {
    const head = await bucket.head(key);
    if (head === null) return null;
    const { sha256 } = head.checksums;
    return {
      sizeBytes: head.size,
      sha256: sha256 === undefined ? head.etag : toHex(new Uint8Array(sha256)),
      contentType: "image/png",
      open: async (range: ByteRange | null) => {
        const object = await bucket.get(key, range === null ? undefined : { range });
        if (object === null) throw unreadable();
        return object.body;
      },
    };
  }

  return {
    /**
     * Both pictures of a predicted fruit: outside view and cross section. A picture that exists is not made again.
     * @param known pictures that the cross has, as read with the prediction's data
     */
    async forCross(
      cross: { maleId: string; femaleId: string; phenotype: Phenotype },
      known: readonly KnownPicture[],
    ): Promise<CrossPictures> {
      const { maleId, femaleId } = cross;
      const stem = stemOf(maleId, femaleId);
      const pair = `${femaleId}-${maleId}`;
      const appearance = appearanceOf(cross.phenotype);
      const seed = seedOf(pair);
      const painted = await painting(appearance, pair, known);
      const isDraft = typeof painted === "object" && painted !== null;
      const drafts = [
        isDraft ? painted : await drawing(appearance, "outside", seed),
        await drawing(appearance, "section", seed),
      ];

      const at = now();
      const isNew = (draft: Draft) => !known.some((picture) => picture.contentKey === draft.contentKey);
      const missing = drafts.filter(isNew);
      const all =
        missing.length === 0 ? known : [...known, ...(await pictures.allocate(stem, monthOf(at), missing, at))];

      const fresh: string[] = [];
      const made: CrossPicture[] = [];
      for (const draft of drafts) {
        const picture = all.find((one) => one.contentKey === draft.contentKey);
        if (picture === undefined) throw new Error("a picture has no address");
        if (!picture.stored) {
          await store(keys.crossPicture(picture.month, pictureFile(stem, picture.sequence)), await draft.make());
          fresh.push(picture.contentKey);
        }
        made.push({
          url: pictureUrl(picture.month, stem, picture.sequence),
          view: picture.view,
          engine: picture.engine,
        });
      }
      return { pictures: made, fallback: isDraft ? null : painted, stem, fresh };
    },

    /** @throws FILE_NOT_FOUND for a path of another form too */
    async crossContent(year: string, month: string, file: string): Promise<Content> {
      const path = readPicturePath(year, month, file.normalize("NFC"));
      const content = path === null ? null : await contentOf(keys.crossPicture(path.month, path.file));
      if (content === null) throw new AppError("FILE_NOT_FOUND", "이미지를 찾을 수 없습니다");
      return content;
    },

    /** The uploaded picture of a strain, else one drawn from its traits on the first request. */
    async strainContent(strain: { id: string; phenotype: Phenotype; imageKey: string | null }): Promise<Content> {
      if (strain.imageKey !== null) {
        const uploaded = await contentOf(strain.imageKey);
        if (uploaded !== null) return uploaded;
      }
      const appearance = appearanceOf(strain.phenotype);
      const seed = seedOf(strain.id);
      const key = keys.strainPicture(strain.id, await sha256Hex(drawingManifest(appearance, "outside", seed)));
      const drawn = await contentOf(key);
      if (drawn !== null) return drawn;
      await store(key, await draw(appearance, "outside", seed));
      const content = await contentOf(key);
      if (content === null) throw unreadable();
      return content;
    },

    /**
     * Stores an uploaded picture as a new PNG; answers its key.
     * @throws VALIDATION_ERROR for anything but a PNG or JPEG within the limits
     */
    async keepUpload(strainId: string, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
      const header = readPhotoHeader(bytes);
      if (!header.ok) throw new AppError("VALIDATION_ERROR", header.error.message);
      const png = await rasterize(photoSvg(bytes, header.value), { orNothing: true });
      if (png === null) throw new AppError("VALIDATION_ERROR", "이미지를 읽을 수 없습니다");
      const key = keys.strainPicture(strainId, `upload-${await sha256Hex(png)}`);
      await store(key, png);
      return key;
    },

    async forget(key: string): Promise<void> {
      await bucket.delete(key);
    },

    /** Removes every picture of a strain that is gone. */
    async forgetStrain(strainId: string): Promise<void> {
      const { objects } = await bucket.list({ prefix: keys.strainPicturePrefix(strainId) });
      if (objects.length > 0) await bucket.delete(objects.map((object) => object.key));
    },
  };
}
