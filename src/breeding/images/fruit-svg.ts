/**
 * Draws a tomato from its traits, to scale, as SVG: the outside with calyx, and the equatorial cross section with
 * pericarp, locules and seeds. Pure and deterministic: the same input gives the same bytes. No fonts, no filters, no
 * links, so any rasteriser draws the same picture.
 *
 * What is data: length, width and pericarp in mm, outline by shape class, size of seeds (3 mm). What is illustration:
 * number of locules (more in heavy, flat fruit), colour (redder with more sugar), gloss (sharper with more firmness).
 */
import { FALLBACK_K } from "../genetics/panel.ts";
import { FALLBACK_PANEL, type Phenotype, type ShapeClass } from "../genetics/traits.ts";

/** What a picture shows. Lengths in mm, sugarContent in °Brix, firmness in kg. */
export interface FruitAppearance {
  length: number;
  width: number;
  weight: number;
  sugarContent: number;
  firmness: number;
  skinThickness: number;
  shape: ShapeClass;
}

export const FRUIT_VIEWS = ["outside", "section"] as const;
export type FruitView = (typeof FRUIT_VIEWS)[number];

export interface FruitDrawing {
  view: FruitView;
  /** Decides sepals, seeds and other accidents of a single fruit; see {@link seedOf}. */
  seed: number;
  /** Edge of the square picture in px. Default 640. */
  size?: number;
  /** Text alternative; any text, escaped. */
  title?: string;
}

/** A number from a text (FNV-1a), to seed the drawing of a named strain or cross. */
export function seedOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** The appearance of a phenotype; what is unknown is derived from what is known, else an average tomato's. */
export function appearanceOf(phenotype: Phenotype): FruitAppearance {
  const average = (trait: "weight" | "ratio") => Math.exp(FALLBACK_PANEL[trait].mean);
  const { length, width } = phenotype;
  const ratio = phenotype.ratio ?? (length !== null && width !== null ? length / width : average("ratio"));
  const weight =
    phenotype.weight ??
    (width !== null
      ? FALLBACK_K * ratio * width ** 3
      : length !== null
        ? (FALLBACK_K * length ** 3) / ratio ** 2
        : average("weight"));
  const derivedWidth = width ?? (length !== null ? length / ratio : (weight / (FALLBACK_K * ratio)) ** (1 / 3));
  return {
    weight,
    width: derivedWidth,
    length: length ?? ratio * derivedWidth,
    sugarContent: phenotype.sugarContent ?? FALLBACK_PANEL.sugarContent.mean,
    firmness: phenotype.firmness ?? FALLBACK_PANEL.firmness.mean,
    skinThickness: phenotype.skinThickness ?? FALLBACK_PANEL.skinThickness.mean,
    shape: phenotype.shape ?? "round",
  };
}

/** Draws one view as a complete SVG document. Both views of a fruit have the same scale. */
export function renderFruitSvg(appearance: FruitAppearance, { view, seed, size = 640, title }: FruitDrawing): string {
  const fruit = bounded(appearance);
  const random = randomFrom(seed);
  const field = fieldOf(fruit);
  const body = view === "outside" ? drawOutside(fruit, random) : drawSection(fruit, random);
  const half = field / 2;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="${n(-half)} ${n(-half)} ${n(field)} ${n(field)}" role="img">`,
    title ? `<title>${escapeXml(title)}</title>` : "",
    backdrop(field),
    body,
    scaleBar(field),
    "</svg>",
  ]
    .filter(Boolean)
    .join("\n");
}

/** Text as XML character data; what XML cannot hold is dropped. */
export const escapeXml = (text: string): string =>
  text
    .toWellFormed()
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters that XML 1.0 forbids
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");

// Numbers, randomness, colours

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));
const mix = (a: number, b: number, t: number) => a + (b - a) * t;

/** A number of the picture in mm: three decimals are 0.04 px at the smallest field. Adding 0 turns −0 into 0. */
const n = (value: number): string => String(Math.round(value * 1000) / 1000 + 0);

type Random = () => number;

function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let t = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    t = Math.imul(t ^ (t >>> 15), 0x735a2d97);
    return ((t ^ (t >>> 15)) >>> 0) / 2 ** 32;
  };
}

const jitter = (random: Random, spread: number) => (2 * random() - 1) * spread;

/** Degrees and shares of 1 to #rrggbb, which every rasteriser reads alike. */
function hsl(hue: number, saturation: number, lightness: number): string {
  const chroma = saturation * Math.min(lightness, 1 - lightness);
  const channel = (offset: number) => {
    const k = (offset + hue / 30 + 12) % 12;
    const value = lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * clamp(value, 0, 1))
      .toString(16)
      .padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

/** A stop of a gradient. */
const stop = (offset: number, colour: string, opacity = 1): string =>
  `<stop offset="${n(offset)}" stop-color="${colour}"${opacity < 1 ? ` stop-opacity="${opacity}"` : ""}/>`;

/** Keeps a drawing possible for any numbers. */
function bounded(a: FruitAppearance): FruitAppearance {
  const finite = (value: number, low: number, high: number, otherwise: number) =>
    Number.isFinite(value) ? clamp(value, low, high) : otherwise;
  const width = finite(a.width, 4, 300, 45);
  const length = finite(a.length, 4, 300, 43);
  return {
    ...a,
    width,
    length,
    weight: finite(a.weight, 0.1, 5000, 53),
    sugarContent: finite(a.sugarContent, 0, 15, 4.5),
    firmness: finite(a.firmness, 0, 3, 0.6),
    skinThickness: finite(a.skinThickness, 0.3, 0.36 * width, 4.9),
  };
}

// The picture around the fruit

const FIELDS_MM = [16, 22, 30, 38, 48, 60, 75, 95, 120, 150, 190, 240, 300, 380, 480];

/** Edge of the picture in mm: a few steps, so that fruit of one kind appear at one scale. */
const fieldOf = ({ length, width }: FruitAppearance): number =>
  FIELDS_MM.find((field) => Math.max(length * 1.42, width * 1.34) <= field) ?? Math.max(length, width) * 1.42;

function backdrop(field: number): string {
  const half = field / 2;
  return `<defs><radialGradient id="paper" cx="50%" cy="42%" r="75%"><stop offset="0" stop-color="#ffffff"/><stop offset="0.6" stop-color="#f6f3ee"/><stop offset="1" stop-color="#e4ded4"/></radialGradient></defs>
<rect x="${n(-half)}" y="${n(-half)}" width="${n(field)}" height="${n(field)}" fill="url(#paper)"/>`;
}

/** Strokes of the characters of a scale label, on a grid 4 wide and 6 high. */
const GLYPHS: Readonly<Record<string, { width: number; path: string }>> = {
  "0": { width: 4, path: "M2 0C0.4 0 0 1.5 0 3S0.4 6 2 6S4 4.5 4 3S3.6 0 2 0Z" },
  "1": { width: 2, path: "M0 1.4L1.6 0V6" },
  "2": { width: 4, path: "M0.1 1.6C0.3 -0.5 3.9 -0.5 3.9 1.7C3.9 3.2 1.6 4.2 0 6H4" },
  "5": { width: 4, path: "M3.6 0H0.6L0.3 2.7C1.5 1.8 4 2 4 4C4 6.5 0.8 6.6 0 5" },
  m: { width: 5, path: "M0 6V2.2M0 3.2C0.7 1.8 2.5 1.8 2.5 3.4V6M2.5 3.4C3 1.8 5 1.8 5 3.4V6" },
  " ": { width: 2, path: "" },
};

/** A bar of a round number of mm with its label, drawn as strokes: no font is needed. */
function scaleBar(field: number): string {
  const bar = [100, 50, 20, 10, 5].find((mm) => mm <= field * 0.28) ?? 5;
  const unit = field / 260;
  const right = field / 2 - field * 0.05;
  const y = field / 2 - field * 0.06;
  const tick = field * 0.011;
  let x = 0;
  let glyphs = "";
  for (const character of `${bar} mm`) {
    const glyph = GLYPHS[character];
    if (!glyph) continue;
    if (glyph.path) glyphs += `<path transform="translate(${n(x)} 0)" d="${glyph.path}"/>`;
    x += glyph.width + 1.4;
  }
  const left = right - bar;
  const labelX = (left + right) / 2 - ((x - 1.4) * unit) / 2;
  return `<g fill="none" stroke="#4a453d" stroke-linecap="round" stroke-linejoin="round">
<path stroke-width="${n(field * 0.0045)}" d="M${n(left)} ${n(y - tick)}V${n(y + tick)}M${n(left)} ${n(y)}H${n(right)}M${n(right)} ${n(y - tick)}V${n(y + tick)}"/>
<g transform="translate(${n(labelX)} ${n(y - field * 0.018 - 6 * unit)}) scale(${n(unit)})" stroke-width="0.75">${glyphs}</g>
</g>`;
}

// Curves

interface Point {
  x: number;
  y: number;
}

/** A closed smooth curve through the points (Catmull–Rom as Bézier pieces). */
function smoothClosed(points: readonly Point[]): string {
  const count = points.length;
  const at = (i: number) => points[(i + count) % count] as Point;
  const start = at(0);
  let d = `M${n(start.x)} ${n(start.y)}`;
  for (let i = 0; i < count; i++) {
    const [p0, p1, p2, p3] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
    d += `C${n(p1.x + (p2.x - p0.x) / 6)} ${n(p1.y + (p2.y - p0.y) / 6)} ${n(p2.x - (p3.x - p1.x) / 6)} ${n(p2.y - (p3.y - p1.y) / 6)} ${n(p2.x)} ${n(p2.y)}`;
  }
  return `${d}Z`;
}

/** An open smooth curve through the points. */
function smoothOpen(points: readonly Point[]): string {
  const at = (i: number) => points[clamp(i, 0, points.length - 1)] as Point;
  let d = `M${n(at(0).x)} ${n(at(0).y)}`;
  for (let i = 0; i < points.length - 1; i++) {
    const [p0, p1, p2, p3] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
    d += `C${n(p1.x + (p2.x - p0.x) / 6)} ${n(p1.y + (p2.y - p0.y) / 6)} ${n(p2.x - (p3.x - p1.x) / 6)} ${n(p2.y - (p3.y - p1.y) / 6)} ${n(p2.x)} ${n(p2.y)}`;
  }
  return d;
}

const OUTLINE_POINTS = 72;

/** How far a fruit is a ribbed beefsteak, 0 to 1: heavy and flat. */
const ribbing = ({ weight, length, width }: FruitAppearance): number =>
  clamp((weight - 90) / 220, 0, 1) * clamp((1.02 - length / width) / 0.3, 0, 1);

/** The silhouette, stem end up, scaled to exactly length × width around the origin. */
function silhouette(fruit: FruitAppearance, random: Random): Point[] {
  const { shape, length, width } = fruit;
  const slim = clamp(length / width, 0.5, 2);
  const exponent = { round: 2.12, oval: 2.05, rectangular: 3.1, pear: 2.1 }[shape];
  const lobes = ribbing(fruit) * 0.012;
  const phase = random() * 6.28;
  const raw = Array.from({ length: OUTLINE_POINTS }, (_, i): Point => {
    const angle = (2 * Math.PI * i) / OUTLINE_POINTS;
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const power = 2 / exponent;
    let x = Math.sign(c) * Math.abs(c) ** power;
    const y = -Math.sign(s) * Math.abs(s) ** power;
    if (shape === "pear") x *= pearProfile(y);
    // Shoulders a little broader than the blossom end; an egg the other way round.
    else x *= 1 + (shape === "oval" ? 0.07 : -0.05) * y * (shape === "rectangular" ? 0.6 : 1);
    const bump = 1 + lobes * Math.cos(7 * angle + phase) * (1 - Math.abs(s) * 0.5);
    const shoulder =
      shape === "round" && slim < 1 ? 0.1 * (1 - slim) * Math.exp(-((c / 0.45) ** 2)) * Math.max(0, s) : 0;
    return { x: x * bump, y: (y + shoulder) * bump };
  });
  return fitTo(raw, width, length);
}

/** Half-width of a pear from stem (−1) to blossom end (1). */
function pearProfile(y: number): number {
  const t = clamp((y + 0.75) / 1.15, 0, 1);
  return mix(0.52, 1.06, t * t * (3 - 2 * t));
}

/** Scales and shifts points so that their box is exactly width × height around the origin. */
function fitTo(points: readonly Point[], width: number, height: number): Point[] {
  const xs = points.map((p) => p.x);
  const ys = points.map((p) => p.y);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  return points.map(({ x, y }) => ({
    x: ((x - (x0 + x1) / 2) / (x1 - x0)) * width,
    y: ((y - (y0 + y1) / 2) / (y1 - y0)) * height,
  }));
}

/** Half-width of the silhouette at height y. */
function halfWidthAt(outline: readonly Point[], y: number): number {
  let best = 0;
  for (const [i, p] of outline.entries()) {
    const q = outline[(i + 1) % outline.length] as Point;
    if (p.y === q.y || (p.y - y) * (q.y - y) > 0) continue;
    best = Math.max(best, p.x + ((q.x - p.x) * (y - p.y)) / (q.y - p.y));
  }
  return best;
}

/** Skin hue: orange-red at little sugar, deep red at much. */
const hueOf = ({ sugarContent }: FruitAppearance): number => mix(13, 1, clamp((sugarContent - 2.5) / 5.5, 0, 1));

// Outside

function drawOutside(fruit: FruitAppearance, random: Random): string {
  const { length, width } = fruit;
  const hue = hueOf(fruit);
  const outline = silhouette(fruit, random);
  const path = smoothClosed(outline);
  const stemY = -length / 2 + length * (fruit.shape === "pear" ? 0.045 : 0.1);
  const parts = [outsideDefs(fruit, hue, path, stemY), groundShadow(width, length)];
  parts.push(`<path d="${path}" fill="url(#skin)"/>`);
  parts.push(`<g clip-path="url(#body)">`);
  parts.push(ribs(fruit, outline, stemY, random));
  parts.push(shoulders(fruit, stemY));
  parts.push(speckles(fruit, random));
  parts.push(`<path d="${path}" fill="url(#terminator)"/>`);
  parts.push(`<path d="${path}" fill="url(#bounce)"/>`);
  parts.push(gloss(fruit, outline));
  const { behind, shadows, front } = calyx(fruit, stemY, random);
  parts.push(shadows, "</g>", behind, front);
  return parts.join("\n");
}

function outsideDefs(fruit: FruitAppearance, hue: number, path: string, stemY: number): string {
  const { width, length } = fruit;
  return `<defs>
<clipPath id="body"><path d="${path}"/></clipPath>
<radialGradient id="skin" cx="0.37" cy="0.3" r="0.82">${stop(0, hsl(hue + 9, 0.95, 0.6))}${stop(0.28, hsl(hue + 4, 0.9, 0.51))}${stop(0.6, hsl(hue, 0.88, 0.43))}${stop(0.85, hsl(hue - 2 + 360, 0.88, 0.33))}${stop(1, hsl(hue - 5 + 360, 0.85, 0.24))}</radialGradient>
<linearGradient id="terminator" x1="0.25" y1="0.1" x2="0.85" y2="1">${stop(0, "#300", 0)}${stop(0.55, "#300000", 0)}${stop(0.86, "#300000", 0.3)}${stop(1, "#200000", 0.42)}</linearGradient>
<radialGradient id="bounce" cx="0.74" cy="0.9" r="0.34">${stop(0, hsl(hue + 14, 1, 0.66), 0.36)}${stop(1, hsl(hue + 14, 1, 0.6), 0)}</radialGradient>
<radialGradient id="shoulder" gradientUnits="userSpaceOnUse" cx="0" cy="${n(stemY)}" r="${n(width * 0.34)}" gradientTransform="translate(0 ${n(stemY * 0.45)}) scale(1 0.55)">${stop(0, "#5c3a06", 0.55)}${stop(0.28, "#a2650c", 0.4)}${stop(0.6, "#e08a1c", 0.22)}${stop(1, "#f09a20", 0)}</radialGradient>
<linearGradient id="furrow" gradientUnits="userSpaceOnUse" x1="0" y1="${n(stemY)}" x2="0" y2="${n(length / 2)}">${stop(0, "#4a0500")}${stop(0.35, "#4a0500", 0.8)}${stop(0.75, "#4a0500", 0.1)}${stop(1, "#4a0500", 0)}</linearGradient>
<linearGradient id="flank" gradientUnits="userSpaceOnUse" x1="0" y1="${n(stemY)}" x2="0" y2="${n(length / 2)}">${stop(0, hsl(hue + 16, 1, 0.72))}${stop(0.4, hsl(hue + 16, 1, 0.7), 0.7)}${stop(0.8, hsl(hue + 16, 1, 0.7), 0)}</linearGradient>
<radialGradient id="glow">${stop(0, "#ffffff", 0.62)}${stop(0.45, "#fff4ee", 0.26)}${stop(1, "#ffe8dd", 0)}</radialGradient>
<radialGradient id="spark">${stop(0, "#ffffff", 0.96)}${stop(0.55, "#ffffff", 0.6)}${stop(1, "#ffffff", 0)}</radialGradient>
<linearGradient id="leaf" x1="0" y1="0" x2="0" y2="1">${stop(0, "#8fb94c")}${stop(0.5, "#5f9433")}${stop(1, "#3f7026")}</linearGradient>
<linearGradient id="leafBack" x1="0" y1="0" x2="0" y2="1">${stop(0, "#6f9c3c")}${stop(1, "#3c6823")}</linearGradient>
<linearGradient id="stem" x1="0" y1="0" x2="1" y2="0">${stop(0, "#a9c763")}${stop(0.45, "#7da343")}${stop(1, "#456d27")}</linearGradient>
<radialGradient id="shade">${stop(0, "#2a1a10", 0.5)}${stop(0.55, "#2a1a10", 0.2)}${stop(1, "#2a1a10", 0)}</radialGradient>
</defs>`;
}

const groundShadow = (width: number, length: number): string =>
  `<ellipse cx="${n(width * 0.05)}" cy="${n(length * 0.485)}" rx="${n(width * 0.56)}" ry="${n(Math.min(length, width) * 0.1)}" fill="url(#shade)"/>`;

/** Meridians of a ribbed fruit: soft dark furrows with a light flank, from the stem to the blossom end. */
function ribs(fruit: FruitAppearance, outline: readonly Point[], stemY: number, random: Random): string {
  const strength = ribbing(fruit);
  if (strength < 0.04) return "";
  const { length, width } = fruit;
  const furrows = 5;
  const offset = random() * 0.3;
  let out = "";
  for (let k = 0; k < furrows; k++) {
    const longitude = -Math.PI / 2 + ((k + 0.35 + offset + jitter(random, 0.12)) * Math.PI) / furrows;
    const points = Array.from({ length: 12 }, (_, i): Point => {
      const t = i / 11;
      const y = mix(stemY, length / 2 - 0.01 * length, t);
      return { x: Math.sin(longitude) * halfWidthAt(outline, y) * Math.min(1, (t / 0.3) ** 0.55), y };
    });
    const d = smoothOpen(points);
    const lit = points.map(({ x, y }) => ({ x: x + width * 0.02, y }));
    for (const [thickness, opacity] of [
      [0.075, 0.07],
      [0.045, 0.08],
      [0.02, 0.1],
    ] as const) {
      out += `<path d="${d}" fill="none" stroke="url(#furrow)" stroke-opacity="${n(opacity * strength * 1.5)}" stroke-width="${n(width * thickness)}" stroke-linecap="round"/>`;
    }
    out += `<path d="${smoothOpen(lit)}" fill="none" stroke="url(#flank)" stroke-opacity="${n(0.2 * strength)}" stroke-width="${n(width * 0.03)}" stroke-linecap="round"/>`;
  }
  return out;
}

/** The yellowish, slightly sunken ring around the stem. */
const shoulders = ({ width }: FruitAppearance, stemY: number): string =>
  `<ellipse cx="0" cy="${n(stemY)}" rx="${n(width * 0.36)}" ry="${n(width * 0.2)}" fill="url(#shoulder)"/>`;

function speckles({ width, length }: FruitAppearance, random: Random): string {
  let out = "";
  for (let i = 0; i < 70; i++) {
    const [a, r] = [random() * 2 * Math.PI, Math.sqrt(random()) * 0.47];
    const radius = width * mix(0.0015, 0.0036, random());
    out += `<circle cx="${n(width * r * Math.cos(a))}" cy="${n(length * r * Math.sin(a))}" r="${n(Math.max(radius, 0.02))}"/>`;
  }
  return `<g fill="#ffd9a8" fill-opacity="0.3">${out}</g>`;
}

/** Highlights: a broad glow and the reflection of a window, small and sharp on firm fruit. */
function gloss({ length, firmness }: FruitAppearance, outline: readonly Point[]): string {
  const firm = clamp((firmness - 0.35) / 0.5, 0, 1);
  const y = -length * 0.17;
  const reach = halfWidthAt(outline, y);
  const x = -reach * 0.44;
  const tilt = `rotate(-24 ${n(x)} ${n(y)})`;
  const glow = `<ellipse cx="${n(x)}" cy="${n(y)}" rx="${n(reach * 0.5)}" ry="${n(length * 0.25)}" transform="${tilt}" fill="url(#glow)" opacity="${n(mix(0.75, 1, firm))}"/>`;
  const [rx, ry] = [reach * mix(0.2, 0.13, firm), length * mix(0.1, 0.07, firm)];
  const spark = `<ellipse cx="${n(x - reach * 0.06)}" cy="${n(y - length * 0.04)}" rx="${n(rx)}" ry="${n(ry)}" transform="${tilt}" fill="url(#spark)" opacity="${n(mix(0.6, 0.95, firm))}"/>`;
  const rimY = length * 0.14;
  const rimX = halfWidthAt(outline, rimY) * 0.86;
  const rim = `<ellipse cx="${n(rimX)}" cy="${n(rimY)}" rx="${n(reach * 0.06)}" ry="${n(length * 0.16)}" transform="rotate(8 ${n(rimX)} ${n(rimY)})" fill="url(#glow)" opacity="0.22"/>`;
  return glow + spark + rim;
}

/** Sepals and the stub of the pedicel, seen from slightly above. */
function calyx(fruit: FruitAppearance, stemY: number, random: Random) {
  const { width, weight } = fruit;
  const reach = clamp(4.5 + 0.19 * width, 0.26 * width, 0.43 * width) * (fruit.shape === "pear" ? 0.86 : 1);
  const sepals = weight > 180 ? 7 : weight > 60 ? 6 : 5;
  const turn = random() * 2 * Math.PI;
  const blades = Array.from({ length: sepals }, (_, k) => {
    const angle = turn + ((k + jitter(random, 0.16)) * 2 * Math.PI) / sepals;
    return {
      angle,
      length: reach * mix(0.85, 1.12, random()),
      twist: jitter(random, 0.22),
      curl: mix(0.02, 0.22, random()),
    };
  }).sort((a, b) => Math.sin(a.angle) - Math.sin(b.angle));

  const drop = (distance: number) =>
    0.5 * fruit.length * (1 - Math.sqrt(Math.max(0, 1 - (distance / (0.5 * width)) ** 2)));
  const surface = (distance: number, angle: number): Point => ({
    x: distance * Math.cos(angle),
    y: stemY + distance * Math.sin(angle) * 0.4 + drop(distance) * mix(0.34, 0.8, (1 + Math.sin(angle)) / 2),
  });
  let behind = "";
  let shadows = "";
  let front = "";
  for (const blade of blades) {
    const half = reach * 0.15;
    const base = surface(reach * 0.05, blade.angle);
    const middle = surface(blade.length * 0.5, blade.angle + blade.twist * 0.5);
    const flat = surface(blade.length, blade.angle + blade.twist);
    const tip = { x: flat.x, y: flat.y - blade.length * blade.curl };
    const along = Math.atan2(tip.y - base.y, tip.x - base.x);
    const side = { x: -Math.sin(along) * half, y: Math.cos(along) * half };
    // Narrower when it points at the viewer or away.
    const shown = mix(1.05, 0.85, Math.abs(Math.sin(blade.angle)));
    const edge = (sign: number) =>
      `${n(middle.x + sign * side.x * shown * 1.7)} ${n(middle.y + sign * side.y * shown * 1.7)}`;
    const root = (sign: number) => `${n(base.x + sign * side.x * 0.8)} ${n(base.y + sign * side.y * 0.8)}`;
    const d = `M${root(1)}Q${edge(1)} ${n(tip.x)} ${n(tip.y)}Q${edge(-1)} ${root(-1)}Z`;
    const vein = `M${n(base.x)} ${n(base.y)}Q${n(middle.x)} ${n(middle.y)} ${n(mix(middle.x, tip.x, 0.75))} ${n(mix(middle.y, tip.y, 0.75))}`;
    const isBack = Math.sin(blade.angle) < -0.25;
    const drawn = `<path d="${d}" fill="url(#${isBack ? "leafBack" : "leaf"})" stroke="#2f5a1c" stroke-width="${n(reach * 0.014)}" stroke-linejoin="round"/><path d="${vein}" fill="none" stroke="#c3dc8d" stroke-opacity="0.6" stroke-width="${n(reach * 0.022)}" stroke-linecap="round"/>`;
    if (isBack) behind += drawn;
    else front += drawn;
    for (const [shift, opacity] of [
      [0.05, 0.16],
      [0.1, 0.12],
    ] as const) {
      shadows += `<path d="${d}" transform="translate(${n(reach * shift * 0.8)} ${n(reach * shift)})" fill="#2a0500" fill-opacity="${opacity}"/>`;
    }
  }
  return { behind, shadows, front: front + pedicel(reach, stemY, random) };
}

function pedicel(reach: number, stemY: number, random: Random): string {
  const height = reach * mix(0.55, 0.75, random());
  const lean = jitter(random, 0.22) * reach;
  const thick = reach * 0.1;
  const [topX, topY] = [lean, stemY - height];
  const [kneeX, kneeY] = [lean * 0.42, stemY - height * 0.56];
  const d = `M${n(-thick * 1.5)} ${n(stemY + thick * 0.7)}C${n(-thick)} ${n(stemY - height * 0.25)} ${n(kneeX - thick)} ${n(kneeY + height * 0.1)} ${n(kneeX - thick)} ${n(kneeY)}L${n(topX - thick * 0.85)} ${n(topY)}L${n(topX + thick * 0.85)} ${n(topY)}L${n(kneeX + thick)} ${n(kneeY)}C${n(kneeX + thick)} ${n(kneeY + height * 0.1)} ${n(thick)} ${n(stemY - height * 0.25)} ${n(thick * 1.5)} ${n(stemY + thick * 0.7)}Q0 ${n(stemY + thick * 1.5)} ${n(-thick * 1.5)} ${n(stemY + thick * 0.7)}Z`;
  const line = `stroke="#2f5a1c" stroke-width="${n(reach * 0.014)}"`;
  return `<path d="${d}" fill="url(#stem)" ${line}/><ellipse cx="${n(kneeX)}" cy="${n(kneeY)}" rx="${n(thick * 1.3)}" ry="${n(thick * 0.62)}" fill="url(#stem)" ${line}/><ellipse cx="${n(topX)}" cy="${n(topY)}" rx="${n(thick * 0.85)}" ry="${n(thick * 0.4)}" fill="#c9d99a" ${line}/>`;
}

// Cross section

/** Locules of a fruit: two or three in cherries, many in beefsteaks. An illustration, not a prediction. */
export function loculesOf(
  fruit: Pick<FruitAppearance, "weight" | "length" | "width" | "shape">,
  random: Random,
): number {
  const { weight, length, width, shape } = fruit;
  if (shape === "pear" || shape === "oval" || shape === "rectangular") return weight > 90 && random() < 0.5 ? 3 : 2;
  const flat = clamp((1 - length / width) / 0.35, 0, 1);
  const mean = 2 + clamp(Math.log2(Math.max(weight, 15) / 15), 0, 4) * mix(0.6, 1.25, flat);
  return clamp(Math.round(mean + jitter(random, 0.5)), 2, 9);
}

function drawSection(fruit: FruitAppearance, random: Random): string {
  const { width, skinThickness } = fruit;
  const hue = hueOf(fruit);
  const locules = loculesOf(fruit, random);
  const lobing = 0.006 + 0.009 * ribbing(fruit);
  const turn = random() * 2 * Math.PI;
  const rim = fitTo(
    Array.from({ length: OUTLINE_POINTS }, (_, i): Point => {
      const angle = (2 * Math.PI * i) / OUTLINE_POINTS;
      const r = 1 + lobing * Math.cos(locules * (angle - turn)) + 0.006 * Math.cos(2 * angle + turn);
      return { x: r * Math.cos(angle), y: r * Math.sin(angle) };
    }),
    width,
    width * mix(0.97, 1, random()),
  );
  const inset = (by: number) => rim.map((p) => shrink(p, by));
  const peel = Math.min(0.35, skinThickness * 0.15);
  const cavity = inset(skinThickness);
  const path = smoothClosed(rim);
  const wall = skinThickness / (width / 2);
  const parts = [
    `<defs>
<clipPath id="flesh"><path d="${smoothClosed(cavity)}"/></clipPath>
<radialGradient id="wall" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="${n(width / 2)}">${stop(0, hsl(hue + 8, 0.78, 0.66))}${stop(1 - wall, hsl(hue + 7, 0.8, 0.62))}${stop(1 - wall * 0.35, hsl(hue + 3, 0.84, 0.53))}${stop(1, hsl(hue, 0.88, 0.44))}</radialGradient>
<radialGradient id="core" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="${n(width * 0.34)}">${stop(0, "#fbe3cf")}${stop(0.4, hsl(hue + 14, 0.8, 0.78))}${stop(1, hsl(hue + 8, 0.8, 0.64))}</radialGradient>
<radialGradient id="gel" cx="0.45" cy="0.4" r="0.75">${stop(0, "#f7b95a")}${stop(0.45, hsl(hue + 22, 0.86, 0.52))}${stop(1, hsl(hue + 10, 0.86, 0.38))}</radialGradient>
<radialGradient id="shade">${stop(0, "#2a1a10", 0.5)}${stop(0.7, "#2a1a10", 0.22)}${stop(1, "#2a1a10", 0)}</radialGradient>
<radialGradient id="wet">${stop(0, "#ffffff", 0.75)}${stop(1, "#ffffff", 0)}</radialGradient>
<linearGradient id="sheen" x1="0" y1="0" x2="1" y2="1">${stop(0, "#ffffff", 0.24)}${stop(0.45, "#ffffff", 0.04)}${stop(1, "#3a0000", 0.16)}</linearGradient>
</defs>`,
    `<ellipse cx="${n(width * 0.03)}" cy="${n(width * 0.05)}" rx="${n(width * 0.55)}" ry="${n(width * 0.54)}" fill="url(#shade)"/>`,
    `<path d="${path}" fill="${hsl(hue + 358, 0.9, 0.36)}"/>`,
    `<path d="${smoothClosed(inset(peel))}" fill="url(#wall)"/>`,
    vessels(rim, skinThickness, width),
    `<path d="${smoothClosed(cavity)}" fill="url(#core)"/>`,
    rays(locules, turn, width),
    `<g clip-path="url(#flesh)">`,
  ];
  for (const locule of layoutLocules(locules, turn, width / 2 - skinThickness, width, random)) {
    parts.push(drawLocule(locule, hue, width, random));
  }
  parts.push("</g>", columella(locules, width, hue), `<path d="${path}" fill="url(#sheen)"/>`);
  return parts.join("\n");
}

/** Moves a point towards the centre by a distance. */
function shrink({ x, y }: Point, by: number): Point {
  const r = Math.hypot(x, y);
  const factor = Math.max(0, r - by) / r;
  return { x: x * factor, y: y * factor };
}

/** Vascular bundles: a ring of pale dots in the pericarp. */
function vessels(rim: readonly Point[], skinThickness: number, width: number): string {
  const radius = Math.min(width * 0.008, skinThickness * 0.1);
  if (skinThickness < 1.2) return "";
  const dots = rim
    .filter((_, i) => i % 2 === 0)
    .map((p) => shrink(p, skinThickness * 0.55))
    .map((p) => `<circle cx="${n(p.x)}" cy="${n(p.y)}" r="${n(radius)}"/>`)
    .join("");
  return `<g fill="#ffe3c4" fill-opacity="0.55">${dots}</g>`;
}

interface Locule {
  angle: number;
  halfAngle: number;
  inner: number;
  outer: number;
}

/** Places locules around the core; a beefsteak has a few small ones inside the ring. */
function layoutLocules(count: number, turn: number, cavity: number, width: number, random: Random): Locule[] {
  const septum = clamp(width * 0.035, 0.8, 3.2);
  const ring = Array.from({ length: count }, (_, k): Locule => {
    const wobble = count > 4 ? 0.09 : 0.05;
    const inner =
      cavity * (count <= 2 ? 0.08 : count <= 4 ? 0.18 : count <= 5 ? 0.28 : 0.46) * mix(0.9, 1.15, random());
    const outer = cavity - septum * 0.55;
    const middle = (inner + outer) / 2;
    return {
      angle: turn + ((k + jitter(random, wobble)) * 2 * Math.PI) / count,
      halfAngle: Math.max(0.12, (Math.PI / count) * mix(0.9, 1, random()) - septum / (2 * middle) - wobble * 0.1),
      inner,
      outer,
    };
  });
  if (count < 6) return ring;
  const small = Array.from({ length: count - 4 }, (_, k): Locule => {
    const inner = cavity * mix(0.16, 0.2, random());
    return {
      angle: turn + 0.5 + ((k + jitter(random, 0.12)) * 2 * Math.PI) / (count - 4),
      halfAngle: (Math.PI / (count - 4)) * mix(0.5, 0.62, random()),
      inner,
      outer: cavity * mix(0.4, 0.44, random()),
    };
  });
  return [...ring, ...small];
}

/** A rounded wedge of gel with seeds; the placenta bulges in from the core. */
function drawLocule({ angle, halfAngle, inner, outer }: Locule, hue: number, width: number, random: Random): string {
  const polar = (r: number, a: number): Point => ({ x: r * Math.cos(a), y: r * Math.sin(a) });
  const depth = outer - inner;
  const edge: Point[] = [];
  const steps = 7;
  for (let i = 0; i <= steps; i++) {
    const u = (2 * i) / steps - 1;
    edge.push(polar(outer - depth * 0.16 * u ** 4 * (1 + jitter(random, 0.15)), angle + halfAngle * u * 0.97));
  }
  edge.push(polar(mix(inner, outer, 0.36), angle + halfAngle * 0.86));
  for (let i = 0; i <= 4; i++) {
    const u = 1 - i / 2;
    // The wedge narrows to the core, and the placenta lifts its floor.
    const spread = halfAngle * 0.6 * u;
    edge.push(polar(inner + depth * (0.13 + 0.08 * (1 - u * u)), angle + spread));
  }
  edge.push(polar(mix(inner, outer, 0.36), angle - halfAngle * 0.86));
  const path = smoothClosed(edge);
  const parts = [
    `<path d="${path}" fill="${hsl(hue + 4, 0.8, 0.36)}" fill-opacity="0.55" stroke="${hsl(hue + 6, 0.75, 0.5)}" stroke-width="${n(width * 0.012)}"/>`,
    `<path d="${path}" fill="url(#gel)"/>`,
  ];
  const area = halfAngle * (outer ** 2 - inner ** 2);
  const wanted = clamp(Math.round(area / 26), 2, 16);
  const seeds: Point[] = [];
  for (let attempt = 0; attempt < wanted * 12 && seeds.length < wanted; attempt++) {
    const r = mix(inner + depth * 0.34, outer - Math.min(depth * 0.16, 2.2), Math.sqrt(random()));
    const place = polar(r, angle + halfAngle * 0.74 * jitter(random, 1));
    if (seeds.every((s) => Math.hypot(s.x - place.x, s.y - place.y) > SEED_MM * 0.78)) seeds.push(place);
  }
  for (const seed of seeds) parts.push(drawSeed(seed, random));
  const glint = polar(mix(inner, outer, 0.72), angle - halfAngle * 0.35);
  parts.push(
    `<ellipse cx="${n(glint.x)}" cy="${n(glint.y)}" rx="${n(depth * 0.13)}" ry="${n(depth * 0.06)}" transform="rotate(${n((angle * 180) / Math.PI + 70)} ${n(glint.x)} ${n(glint.y)})" fill="url(#wet)"/>`,
  );
  return parts.join("");
}

const SEED_MM = 3;

/** A tomato seed, true to size: a flat drop in its gel coat, pointing at the placenta. */
function drawSeed({ x, y }: Point, random: Random): string {
  const turn = (Math.atan2(y, x) * 180) / Math.PI + 180 + jitter(random, 40);
  const size = mix(0.85, 1.05, random());
  return `<g transform="translate(${n(x)} ${n(y)}) rotate(${n(turn)}) scale(${n(size)})"><ellipse rx="2" ry="1.5" fill="#f3c15a" fill-opacity="0.4"/><path d="M1.5 0C0.9 -0.75 -0.2 -1.05 -0.9 -0.85C-1.7 -0.6 -1.7 0.6 -0.9 0.85C-0.2 1.05 0.9 0.75 1.5 0Z" fill="#f0dca6" stroke="#b98a3c" stroke-width="0.16"/><path d="M0.9 0C0.3 -0.3 -0.5 -0.45 -0.9 -0.1" fill="none" stroke="#fff6d8" stroke-width="0.2" stroke-linecap="round"/></g>`;
}

/** A pale ray into each septum. */
function rays(locules: number, turn: number, width: number): string {
  const end = width * (locules <= 4 ? 0.26 : 0.32);
  const d = Array.from({ length: locules }, (_, k) => {
    const a = turn + ((k + 0.5) * 2 * Math.PI) / locules;
    return `M0 0L${n(end * Math.cos(a))} ${n(end * Math.sin(a))}`;
  }).join("");
  return `<path d="${d}" fill="none" stroke="#fdeedd" stroke-opacity="0.35" stroke-width="${n(width * 0.008)}" stroke-linecap="round"/>`;
}

/** The pale middle of the core. */
function columella(locules: number, width: number, hue: number): string {
  const reach = width * (locules <= 2 ? 0.04 : locules <= 5 ? 0.065 : 0.05);
  return `<circle r="${n(reach)}" fill="#fff2e2" fill-opacity="0.75"/><circle r="${n(reach * 0.5)}" fill="${hsl(hue + 26, 0.6, 0.86)}"/>`;
}
