/**
 * Makes the JPEG, WebP and PNG files of `fixtures.json` with encoders that are not ours (libjpeg-turbo, libwebp, libspng in
 * sharp, which comes with miniflare): `node test/support/images/make.ts`. The result is committed; tests do not run this.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
// @ts-expect-error -- not a dependency of ours: only whoever remakes the fixtures needs it, and it is there with miniflare
import sharp from "sharp";

const width = 24;
const height = 16;
/** Four flat quarters: red, green / blue, grey. Flat 8 x 8 blocks survive lossy compression. */
const colours = [
  [220, 30, 40],
  [20, 200, 60],
  [30, 60, 210],
  [128, 128, 128],
];
const raw = Buffer.alloc(width * height * 3);
for (let y = 0; y < height; y += 1) {
  for (let x = 0; x < width; x += 1) {
    const colour = colours[(y < 8 ? 0 : 2) + (x < 16 ? 0 : 1)] ?? [];
    raw.set(colour, (y * width + x) * 3);
  }
}
const image = () => sharp(raw, { raw: { width, height, channels: 3 } });
const oriented = (orientation: number) =>
  image().withMetadata({ orientation }).jpeg({ quality: 95, chromaSubsampling: "4:4:4" });
const translucent = () => image().ensureAlpha(0.5);

const files: Record<string, { toBuffer(): Promise<Buffer> }> = {
  "baseline.jpg": image().jpeg({ quality: 95, chromaSubsampling: "4:4:4" }),
  "progressive.jpg": image().jpeg({ quality: 95, progressive: true, chromaSubsampling: "4:4:4" }),
  "grey.jpg": image().toColourspace("b-w").jpeg({ quality: 95 }),
  "cmyk.jpg": image().toColourspace("cmyk").jpeg({ quality: 95 }),
  "lossy.webp": image().webp({ quality: 95 }),
  "lossless.webp": image().webp({ lossless: true }),
  "alpha.webp": translucent().webp({ lossless: true }),
  "alpha-lossy.webp": translucent().webp({ quality: 95 }),
  "animated.webp": sharp(Buffer.concat([raw, Buffer.from(raw).reverse()]), {
    raw: { width, height: height * 2, channels: 3, pageHeight: height },
  }).webp({ lossless: true }),
  "rgb.png": image().png(),
  "rgba.png": translucent().png(),
  "palette.png": image().png({ palette: true }),
  "interlaced.png": image().png({ progressive: true }),
  "small.gif": image().gif(),
};
for (let orientation = 1; orientation <= 8; orientation += 1) files[`exif-${orientation}.jpg`] = oriented(orientation);

const fixtures: Record<string, string> = {};
for (const [name, file] of Object.entries(files)) fixtures[name] = (await file.toBuffer()).toString("base64");
writeFileSync(join(import.meta.dirname, "fixtures.json"), `${JSON.stringify(fixtures, null, 1)}\n`);
