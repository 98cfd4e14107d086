import { type Envelope, breedingEnvelope as renderBreeding } from "../http/problem.ts";
import { AppError, type ErrorCode } from "../shared/errors.ts";

/** Every message that a user of the Breeding API sees is Korean; those of its contract are here word for word. */
export const MESSAGES = {
  strainNotFound: "계통을 찾을 수 없습니다",
  parentIdsRequired: "부친과 모친 계통 ID가 필요합니다",
  predictionNotFound: "예측을 찾을 수 없습니다",
  combinationNotFound: "이 조합에 대한 예측을 찾을 수 없습니다",
  badCombinationKey: "잘못된 조합 키 형식",
  predictionFailed: "예측 생성에 실패했습니다",
  predictionDone: "예측이 성공적으로 완료되었습니다",
} as const;

/** What stands for messages of shared code, which are English. */
const BY_CODE: Partial<Record<ErrorCode, string>> = {
  VALIDATION_ERROR: "입력값이 올바르지 않습니다",
  BAD_REQUEST: "요청 형식이 올바르지 않습니다. JSON 본문을 확인하세요",
  UNAUTHORIZED: "유효한 액세스 토큰이 필요합니다",
  FORBIDDEN: "이 작업을 수행할 권한이 없습니다",
  NOT_FOUND: "요청한 경로를 찾을 수 없습니다",
  STRAIN_NOT_FOUND: MESSAGES.strainNotFound,
  PREDICTION_NOT_FOUND: MESSAGES.predictionNotFound,
  COMBINATION_NOT_FOUND: MESSAGES.combinationNotFound,
  OBSERVATION_NOT_FOUND: "관측 기록을 찾을 수 없습니다",
  FILE_NOT_FOUND: "이미지를 찾을 수 없습니다",
  METHOD_NOT_ALLOWED: "요청한 경로를 찾을 수 없습니다",
  PAYLOAD_TOO_LARGE: "요청 본문이 너무 큽니다",
  UNSUPPORTED_MEDIA_TYPE: "지원하지 않는 콘텐츠 형식입니다",
  RANGE_NOT_SATISFIABLE: "요청한 범위를 제공할 수 없습니다",
  RATE_LIMITED: "요청이 너무 많습니다. 잠시 후 다시 시도하세요",
  STORAGE_UNAVAILABLE: "저장된 파일을 지금 읽을 수 없습니다",
};

const hasHangul = (text: string): boolean => /\p{Script=Hangul}/u.test(text);

/** The message to show: its own where that is Korean, else the one of its code. A configuration error keeps its details. */
export function koreanMessage(problem: AppError): string {
  if (hasHangul(problem.message)) return problem.message;
  if (problem.code === "CONFIGURATION_ERROR") return `서버 설정 오류: ${problem.message}`;
  return BY_CODE[problem.code] ?? "서버 내부 오류가 발생했습니다";
}

/** The Breeding API's error body in Korean, with the statuses that its contract knows: a conflict is a bad request there. */
export const breedingEnvelope: Envelope = (problem) => {
  const { status, body } = renderBreeding(problem);
  return { status: status === 409 ? 400 : status, body: { ...body, error: koreanMessage(problem) } };
};

export const strainNotFound = () => new AppError("STRAIN_NOT_FOUND", MESSAGES.strainNotFound);

/** An input that cannot be accepted: 400 in this API. */
export const refuse = (message: string, field: string | null = null) =>
  new AppError("VALIDATION_ERROR", message, { field });
