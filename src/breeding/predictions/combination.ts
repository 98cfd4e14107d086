import { isStrainId } from "../strains/csv.ts";

/** A cross: the mother comes first in its id, `{femaleStrainId}-{maleStrainId}`. */
export type Pair = { femaleId: string; maleId: string };

export const combinationId = ({ femaleId, maleId }: Pair): string => `${femaleId}-${maleId}`;

/** The pairs that a combination id may stand for: ids may contain hyphens themselves. Empty: it is none. Pure. */
export function splitCombinationId(key: string): Pair[] {
  const pairs: Pair[] = [];
  for (let at = key.indexOf("-"); at >= 0; at = key.indexOf("-", at + 1)) {
    const pair = { femaleId: key.slice(0, at), maleId: key.slice(at + 1) };
    if (isStrainId(pair.femaleId) && isStrainId(pair.maleId)) pairs.push(pair);
  }
  return pairs;
}

/** What is wrong with the roles of the parents, for people; null when the cross can be made. Pure. */
export function roleProblem(female: { id: string; type: string }, male: { id: string; type: string }): string | null {
  if (female.type === "male") return `부계 전용 계통은 모친으로 사용할 수 없습니다: ${female.id}`;
  if (male.type === "female") return `모계 전용 계통은 부친으로 사용할 수 없습니다: ${male.id}`;
  return null;
}
