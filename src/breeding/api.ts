import { createApi } from "../http/create-api.ts";
import { limitJsonBody } from "../http/json-body.ts";
import { serveDocument } from "../http/openapi.ts";
import { announceDeprecations, phaseGuard } from "./access.ts";
import { crossRoutes } from "./crosses/routes.ts";
import { breedingEnvelope } from "./messages.ts";
import { modelRoutes } from "./model/routes.ts";
import { observationRoutes } from "./observations/routes.ts";
import { predictionRoutes } from "./predictions/routes.ts";
import { strainRoutes } from "./strains/routes.ts";

export const PREFIX = "/api";

const INFO = {
  title: "BRAI: cultivar Breeding API",
  version: "1.0.0",
  description:
    "토마토 교배(F1) 예측: 계통, 예측과 이미지, 관측, 모형, 교배 순위. 이미지는 `/images/tomato/…`에서 제공합니다. " +
    "읽기와 예측은 Phase 1에서 인증이 필요 없고, 데이터를 바꾸는 요청은 항상 액세스 토큰이 필요합니다.",
};

const TAGS = [
  { name: "Strains", description: "부모 계통: 표현형, 사진, CSV 가져오기와 내보내기" },
  { name: "Predictions", description: "두 계통의 F1 예측, 이미지와 이력" },
  { name: "Observations", description: "실제로 측정한 교배: 모형이 배우는 데이터" },
  { name: "Model", description: "예측 모형이 무엇에 근거하고 얼마나 맞았는지" },
  { name: "Crosses", description: "모든 교배의 순위, 다음에 시험할 교배, 조합능력" },
];

/** Where the resources of this API begin. Guards stand on them and not on the prefix, which another API shares. */
const RESOURCES = ["strains", "predictions", "observations", "model", "crosses", "combining-ability"];

/** The Breeding API below `/api`. */
export function createBreedingApi() {
  const api = createApi(breedingEnvelope);
  serveDocument(api, PREFIX, INFO, ["bearer"], TAGS);
  for (const resource of RESOURCES) api.use(`/${resource}/*`, announceDeprecations(), phaseGuard, limitJsonBody([]));
  api.route("/", strainRoutes);
  api.route("/", predictionRoutes);
  api.route("/", observationRoutes);
  api.route("/", modelRoutes);
  api.route("/", crossRoutes);
  return api;
}
