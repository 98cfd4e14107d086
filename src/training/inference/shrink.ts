import { errorText, logger } from "../../shared/logger.ts";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import { type ImageHeader, readImageHeader } from "./image-header.ts";
import { fittedSize } from "./normalise.ts";

/** Longest side of an image that comes back: 3.7 megapixels at most, which are decoded as PNG here. */
export const MAX_SHRUNK_EDGE = 1920;

/** Shorter than this there is nothing to gain, and thin images would lose all of their other side. */
const MIN_SHRUNK_EDGE = 512;

export type ShrunkImage = { bytes: Uint8Array<ArrayBuffer>; header: ImageHeader };

/**
 * Lets the Images binding decode and shrink an image outside of this isolate's memory. It sets the image upright.
 * @param edge pixels of the longer side that are wanted
 * @returns a PNG file · `VALIDATION_ERROR` when the image is damaged · `BUSY` when the binding does not answer
 */
export async function shrinkImage(
  images: ImagesBinding,
  bytes: Uint8Array,
  header: ImageHeader,
  edge: number,
): Promise<Result<ShrunkImage, Failure<"VALIDATION_ERROR" | "BUSY">>> {
  const wanted = fittedSize(header, header.orientation, Math.max(edge, MIN_SHRUNK_EDGE));
  const damaged = () => fail("VALIDATION_ERROR", "The image is damaged", "file");
  try {
    const output = await images
      .input(new Blob([bytes]).stream())
      .transform({ ...wanted, fit: "squeeze" })
      .output({ format: "image/png" });
    const png = new Uint8Array(await output.response().arrayBuffer());
    const read = readImageHeader(png);
    // Not the shape that was asked for: it was read as another picture, or turned another way.
    if (!read.ok || read.value.width !== wanted.width || read.value.height !== wanted.height) return damaged();
    return ok({ bytes: png, header: read.value });
  } catch (thrown) {
    logger.warn("image could not be shrunk", { error: errorText(thrown).slice(0, 500), type: header.type });
    // 94xx are about the input (documented errors of the Images binding). The local binding passes on what sharp says.
    const code = thrown instanceof Error && "code" in thrown ? Number(thrown.code) : Number.NaN;
    return (code >= 9400 && code < 9500) || /input (buffer|file)/i.test(errorText(thrown))
      ? damaged()
      : fail("BUSY", "The image could not be made smaller at the moment, try again");
  }
}
