/** The examples of the BRAI contract, version 1.0.0, as it prints them; ids and places as in its section 4. */

const strain = {
  id: "TC1_022",
  name: "TC1_022",
  type: "both",
  phenotype: {
    weight: 47.24,
    length: 44.38,
    width: 38.59,
    ratio: 1.15,
    sugarContent: 5.24,
    firmness: 0.51,
    skinThickness: 6.81,
    shape: "round",
  },
  metadata: {
    source: "strains folder",
    createdAt: "2025-11-16T16:16:04.742Z",
    imageUrl: "/images/tomato/strains/TC1_022.png",
  },
};

/** 4.1.1 */
export const STRAIN_LIST = { success: true, data: [strain], total: 50 };
/** 4.1.1, the request example, without its host. */
export const STRAIN_LIST_REQUEST = "/api/strains?type=female&search=TC1";

/** 4.1.2 */
export const STRAIN_DETAIL = { success: true, data: strain };
export const STRAIN_NOT_FOUND = { success: false, error: "계통을 찾을 수 없습니다" };

/** 4.2.1 */
export const PREDICTION_REQUEST = {
  maleStrainId: "TC1_022",
  femaleStrainId: "TC1_023",
  options: { predictPhenotype: true, generateImage: true },
};
export const PREDICTION_CREATED = {
  success: true,
  data: {
    id: "PRED_1763366644698_a3f2b1c4",
    maleStrain: strain,
    femaleStrain: strain,
    predictedPhenotype: {
      weight: { value: 34.89, confidence: 0.92, grade: 3 },
      length: { value: 37.31, confidence: 0.88, grade: 3 },
      sugarContent: { value: 5.32, confidence: 0.9, grade: 3 },
      firmness: { value: 0.53, confidence: 0.86, grade: 3 },
      shape: { value: "round", confidence: 0.95 },
    },
    generatedImages: [
      "/images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_01.png",
      "/images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_02.png",
    ],
    overallScore: 3.2,
    recommendation: "중과종으로 다용도 활용 가능. 가공용으로 활용 권장",
    createdAt: "2025-11-17T08:30:00.000Z",
  },
  message: "예측이 성공적으로 완료되었습니다",
};
export const PARENTS_REQUIRED = { success: false, error: "부친과 모친 계통 ID가 필요합니다" };

/** 4.2.2 */
export const PREDICTION_HISTORY = {
  success: true,
  data: [
    {
      id: "PRED_1763366644698_a3f2b1c4",
      maleStrain: strain,
      femaleStrain: strain,
      predictedPhenotype: PREDICTION_CREATED.data.predictedPhenotype,
      overallScore: 3.2,
      createdAt: "2025-11-17T08:30:00.000Z",
    },
  ],
  total: 45,
  page: 1,
  limit: 10,
  hasMore: true,
};

/** 4.2.3 to 4.2.5 */
export const PREDICTION_NOT_FOUND = { success: false, error: "예측을 찾을 수 없습니다" };
export const COMBINATION_NOT_FOUND = { success: false, error: "이 조합에 대한 예측을 찾을 수 없습니다" };
export const COMBINATIONS = {
  success: true,
  data: { combinationIds: ["TC1_023-TC1_022", "TC1_026-TC1_022", "TC1_027-TC1_022"], total: 25 },
};

/** 6.2 */
export const BAD_COMBINATION_KEY = { success: false, error: "잘못된 조합 키 형식" };
export const PREDICTION_FAILED = { success: false, error: "예측 생성에 실패했습니다" };
