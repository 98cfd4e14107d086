/** The description of a fruit for a text-to-image model: numbers of the prediction and words from this file, nothing else. */
import { sizeClassOf } from "../genetics/recommendation.ts";
import type { ShapeClass } from "../genetics/traits.ts";
import type { FruitAppearance } from "./fruit-svg.ts";

const FORM: Record<ShapeClass, string> = {
  round: "globe-shaped",
  oval: "egg-shaped, longer than wide",
  rectangular: "blocky and cylindrical with flat sides",
  pear: "pear-shaped with a narrow neck at the stem",
};

const KIND = { small: "cherry tomato", medium: "salad tomato", large: "large beefsteak tomato" } as const;

/** At most this many characters are accepted by the models in use. */
export const MAX_PROMPT_LENGTH = 2048;

export function fruitPrompt(fruit: FruitAppearance): string {
  const mm = (value: number) => `${Math.round(value)} mm`;
  const ratio = fruit.length / fruit.width;
  const flat = fruit.shape === "round" && ratio < 0.85 ? ", clearly flattened from top to bottom, slightly ribbed" : "";
  const colour = fruit.sugarContent >= 6 ? "deep red" : fruit.sugarContent >= 4 ? "bright red" : "orange red";
  const skin = fruit.firmness >= 0.6 ? "firm, smooth and glossy skin" : "smooth skin with a soft sheen";
  return [
    `Studio photograph of one single ripe ${KIND[sizeClassOf(fruit.weight)]}, the whole fruit seen from the side, stem with green calyx on top`,
    `${FORM[fruit.shape]}${flat}, length to width ratio ${ratio.toFixed(2)}, ${mm(fruit.length)} long and ${mm(fruit.width)} wide, about ${Math.round(fruit.weight)} grams`,
    `${colour}, ${skin}`,
    "centred on a plain off-white background, soft even light, sharp focus, no text, no hands, no cut fruit, no other objects",
  ].join(". ");
}
