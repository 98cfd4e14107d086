import { sign, verify } from "hono/jwt";
import { z } from "zod";
import type { Principal } from "./principal.ts";

/** Signed tokens: the user's access token and a runner's job token. One algorithm, fixed here; audience and type are checked. */
const ALGORITHM = "HS256";
const ISSUER = "cultivar";
export const ACCESS_TOKEN_LIFE_S = 12 * 3600;

const AccessClaims = z.object({
  iss: z.literal(ISSUER),
  aud: z.literal("api"),
  type: z.literal("access"),
  sub: z.string().regex(/^[1-9]\d{0,14}$/),
  ver: z.number().int(),
  exp: z.number(),
});

const JobClaims = z.object({
  iss: z.literal(ISSUER),
  aud: z.literal("runner"),
  type: z.literal("job"),
  job: z.number().int().positive(),
  attempt: z.number().int().positive(),
  fence: z.number().int().positive(),
  dataset: z.string(),
  exp: z.number(),
});

/** What a job token allows: the calls of this attempt of this job, while its fence is the current one. */
export type JobTokenClaims = { jobId: number; attempt: number; fence: number; datasetId: string };

/** @param nowMs the server's clock; the token ends `ACCESS_TOKEN_LIFE_S` later */
export const signAccessToken = (
  secret: string,
  principal: { userId: number; tokenVersion: number },
  nowMs: number,
): Promise<string> => {
  const iat = Math.floor(nowMs / 1000);
  return sign(
    {
      iss: ISSUER,
      aud: "api",
      type: "access",
      sub: String(principal.userId),
      ver: principal.tokenVersion,
      iat,
      exp: iat + ACCESS_TOKEN_LIFE_S,
    },
    secret,
    ALGORITHM,
  );
};

/** @param lifeS seconds until it ends: the job's longest duration and an hour (runner protocol, section 1) */
export const signJobToken = (secret: string, claims: JobTokenClaims, nowMs: number, lifeS: number): Promise<string> => {
  const iat = Math.floor(nowMs / 1000);
  return sign(
    {
      iss: ISSUER,
      aud: "runner",
      type: "job",
      job: claims.jobId,
      attempt: claims.attempt,
      fence: claims.fence,
      dataset: claims.datasetId,
      iat,
      exp: iat + Math.ceil(lifeS),
    },
    secret,
    ALGORITHM,
  );
};

/** The payload of a token with a good signature that is in time, else null. The library's error texts contain the token. */
async function payloadOf(token: string, secret: string): Promise<unknown> {
  try {
    return await verify(token, secret, ALGORITHM);
  } catch {
    return null;
  }
}

/** The caller of an access token, or null when it is forged, expired, or of another kind. */
export async function readAccessToken(secret: string, token: string): Promise<Principal | null> {
  const claims = AccessClaims.safeParse(await payloadOf(token, secret));
  if (!claims.success) return null;
  const { sub, ver, exp } = claims.data;
  return { userId: Number(sub), tokenVersion: ver, expiresAtMs: exp * 1000 };
}

/** The claims of a job token, or null when it is forged, expired, or of another kind. Nothing is woken for a bad one. */
export async function readJobToken(secret: string, token: string): Promise<JobTokenClaims | null> {
  const claims = JobClaims.safeParse(await payloadOf(token, secret));
  if (!claims.success) return null;
  const { job, attempt, fence, dataset } = claims.data;
  return { jobId: job, attempt, fence, datasetId: dataset };
}
