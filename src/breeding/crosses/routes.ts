import { createRoute } from "@hono/zod-openapi";
import { jsonContent } from "../../http/create-api.ts";
import { callerOf, createBreedingRouter, csvHeaders, OPEN_IN_PHASE_1, problems } from "../http.ts";
import { CombiningQuerySchema, RankingQuerySchema, SuggestionQuerySchema } from "./query.ts";
import { CombiningAbilitySchema, RankingSchema, SuggestionsSchema } from "./schemas.ts";

const tags = ["Crosses"];

const ranking = createRoute({
  method: "get",
  path: "/crosses/ranking",
  operationId: "rankCrosses",
  tags,
  summary: "가능한 모든 교배의 순위",
  security: OPEN_IN_PHASE_1,
  request: { query: RankingQuerySchema },
  responses: {
    200: {
      description: "한 페이지 (format=csv: 전체를 CSV로)",
      content: { "application/json": { schema: RankingSchema }, "text/csv": { schema: { type: "string" } } },
    },
    ...problems(400, 401, 404, 429),
  },
});

const suggestions = createRoute({
  method: "get",
  path: "/crosses/suggestions",
  operationId: "suggestCrosses",
  tags,
  summary: "다음에 시험할 교배",
  description: "상위 후보에 대해 가장 많이 알려 줄 시험부터. 이미 관측된 교배는 제안하지 않습니다.",
  security: OPEN_IN_PHASE_1,
  request: { query: SuggestionQuerySchema },
  responses: { 200: jsonContent(SuggestionsSchema, "제안"), ...problems(400, 401, 429) },
});

const combiningAbility = createRoute({
  method: "get",
  path: "/combining-ability",
  operationId: "getCombiningAbility",
  tags,
  summary: "일반조합능력과 잡종강세",
  description: "모든 계통의 GCA, 관측된 교배(또는 지정한 교배)의 SCA와 잡종강세.",
  security: OPEN_IN_PHASE_1,
  request: { query: CombiningQuerySchema },
  responses: { 200: jsonContent(CombiningAbilitySchema, "조합능력"), ...problems(400, 401, 404, 429) },
});

export const crossRoutes = createBreedingRouter()
  .openapi(ranking, async (c) => {
    const { crosses } = c.get("services").breeding;
    const query = c.req.valid("query");
    if (query.format === "csv")
      return c.body(await crosses.rankingCsv(callerOf(c), query), 200, csvHeaders("crosses.csv"));
    return c.json({ success: true as const, ...(await crosses.ranking(callerOf(c), query)) }, 200);
  })
  .openapi(suggestions, async (c) => {
    const data = await c.get("services").breeding.crosses.suggestions(callerOf(c), c.req.valid("query"));
    return c.json({ success: true as const, data }, 200);
  })
  .openapi(combiningAbility, async (c) => {
    const answer = await c.get("services").breeding.crosses.combiningAbility(callerOf(c), c.req.valid("query"));
    return c.json({ success: true as const, ...answer }, 200);
  });
