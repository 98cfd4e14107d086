import type { Actor } from "../../audit/entry.ts";
import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import { signJobToken } from "../../auth/tokens.ts";
import type { Config } from "../../config.ts";
import { AppError, unwrap } from "../../shared/errors.ts";
import { newToken, newUuid, sha256Hex } from "../../shared/ids.ts";
import { isoSeconds, isoSecondsOrNull } from "../../shared/time.ts";
import { POOL_NAME, type TrainingJob } from "../jobs/object.ts";
import type { RunnerFacts } from "./match.ts";
import type { RunnerPool } from "./pool.ts";
import type { RunnerRepository } from "./repository.ts";

/** A runner that is silent for so long is not listed any more (runner protocol, section 8). */
const ARCHIVE_MS = 14 * 86_400_000;
/** The same for one with the label `ephemeral=true`. */
const ARCHIVE_EPHEMERAL_MS = 86_400_000;

export type RunnerService = ReturnType<typeof createRunnerService>;

type Registration = {
  machine_id: string;
  name: string;
  os?: string;
  gpus: { model: string; vram_mb: number }[];
  frameworks: string[];
  labels: Record<string, string>;
  slots: number;
  version?: string;
};

export function createRunnerService(deps: {
  runners: RunnerRepository;
  jobs: DurableObjectNamespace<TrainingJob>;
  pools: DurableObjectNamespace<RunnerPool>;
  config: Config;
  now: () => number;
}) {
  const { runners, jobs, pools, config, now } = deps;
  const pool = () => pools.getByName(POOL_NAME);

  /** The runner of a token. @throws UNAUTHORIZED */
  async function authenticate(token: string | null) {
    const runner = token === null ? undefined : await runners.byTokenHash(await sha256Hex(token));
    if (runner === undefined) throw new AppError("UNAUTHORIZED", "A valid runner token is required");
    return runner;
  }

  /** @throws UNAUTHORIZED · FORBIDDEN unless the caller is an admin */
  async function admin(principal: Principal, requestId: string): Promise<Actor> {
    const caller = await runners.caller(principal);
    if (caller === undefined) throw unauthorized();
    if (!caller.isAdmin) throw new AppError("FORBIDDEN", "Only admins look after runners");
    return { userId: caller.id, requestId };
  }

  const notFound = () => new AppError("RUNNER_NOT_FOUND", "Runner not found");

  return {
    /** A token with which machines can register. @throws UNAUTHORIZED · FORBIDDEN unless the caller is an admin */
    async createRegistrationToken(
      principal: Principal,
      input: { pool: string; uses: number; ttl_s: number },
      requestId: string,
    ) {
      const actor = await admin(principal, requestId);
      const token = newToken("cvreg");
      const expiresAt = now() + input.ttl_s * 1000;
      await runners.addRegistrationToken(actor, {
        tokenHash: await sha256Hex(token),
        pool: input.pool,
        usesLeft: input.uses,
        expiresAt,
        createdBy: actor.userId,
        createdAt: now(),
      });
      return { registration_token: token, pool: input.pool, uses: input.uses, expires_at: isoSeconds(expiresAt) };
    },

    /**
     * Runners by name, with what is known of them right now. Those that were silent for long are left out unless asked for.
     * @throws UNAUTHORIZED · FORBIDDEN
     */
    async list(principal: Principal, page: { archived: boolean; skip: number; limit: number }) {
      await admin(principal, "");
      const [{ rows, busy }, sightings] = await Promise.all([runners.list(), pool().sightings()]);
      const seen = new Map(sightings.map((sighting) => [sighting.runnerId, sighting]));
      const silentSince = (runner: (typeof rows)[number]) => seen.get(runner.id)?.seenAtMs ?? runner.registeredAt;
      const shown = rows.filter(
        (runner) =>
          page.archived ||
          now() - silentSince(runner) < (runner.labels.ephemeral === "true" ? ARCHIVE_EPHEMERAL_MS : ARCHIVE_MS),
      );
      return {
        runners: shown.slice(page.skip, page.skip + page.limit).map((runner) => {
          const sighting = seen.get(runner.id);
          const jobIds = busy.filter((job) => job.runnerId === runner.id).map((job) => job.id);
          return {
            id: runner.id,
            name: runner.name,
            machine_id: runner.machineId,
            pool: runner.pool,
            os: runner.os,
            version: runner.version,
            gpus: runner.gpus,
            frameworks: runner.frameworks,
            labels: runner.labels,
            slots: runner.slots,
            live: sighting?.live ?? false,
            waiting: sighting?.waiting ?? false,
            busy: jobIds.length > 0,
            job_ids: jobIds,
            draining: runner.drain,
            skew_s: sighting?.skewMs == null ? null : Math.round(sighting.skewMs / 1000),
            last_seen_at: isoSecondsOrNull(sighting?.seenAtMs),
            registered_at: isoSeconds(runner.registeredAt),
          };
        }),
        total: shown.length,
        skip: page.skip,
        limit: page.limit,
      };
    },

    /** Tells a runner to claim no more; what it works on it finishes. @throws RUNNER_NOT_FOUND · FORBIDDEN */
    async drain(principal: Principal, runnerId: string, requestId: string) {
      const actor = await admin(principal, requestId);
      if (!(await runners.drain(actor, runnerId, now()))) throw notFound();
      await pool().drain(runnerId);
      return { id: runnerId, draining: true as const };
    },

    /** Ends a runner's token and takes its jobs away at once. @throws RUNNER_NOT_FOUND · FORBIDDEN */
    async revoke(principal: Principal, runnerId: string, requestId: string): Promise<void> {
      const actor = await admin(principal, requestId);
      const held = await runners.revoke(actor, runnerId, now());
      if (held === undefined) throw notFound();
      await pool().forget(runnerId);
      await Promise.all(held.map((jobId) => jobs.getByName(String(jobId)).evict(runnerId)));
    },

    /** Makes a machine a runner. The same machine again keeps its id and gets a new token; its running jobs go on. */
    async register(registrationToken: string | null, input: Registration) {
      const token = newToken("cvr");
      const id =
        registrationToken === null
          ? undefined
          : await runners.register(
              await sha256Hex(registrationToken),
              {
                id: newUuid(),
                machineId: input.machine_id,
                pool: POOL_NAME,
                name: input.name,
                os: input.os ?? null,
                gpus: input.gpus,
                frameworks: input.frameworks,
                labels: input.labels,
                slots: input.slots,
                version: input.version ?? null,
                tokenHash: await sha256Hex(token),
                registeredAt: now(),
              },
              now(),
            );
      if (id === undefined) throw new AppError("UNAUTHORIZED", "A valid registration token is required");
      return { runner_id: id, runner_token: token, timers: config.timers, limits: config.limits };
    },

    /**
     * Waits for work. Null: nothing came. A connection that ends gives the claim up, so that no job is offered to nobody.
     * @throws INSTANCE_CONFLICT
     */
    async claim(
      token: string | null,
      input: { instance_id: string; free_slots: number; wait_s: number },
      connection: { signal: AbortSignal; waitUntil: (work: Promise<unknown>) => void },
    ) {
      const runner = await authenticate(token);
      if (runner.drain) return { drain: true as const };
      const facts: RunnerFacts = {
        runnerId: runner.id,
        frameworks: runner.frameworks,
        labels: runner.labels,
        gpus: runner.gpus,
      };
      const waitMs = Math.min(input.wait_s, config.timers.claim_wait_s) * 1000;
      const claimId = newUuid();
      const drop = () => connection.waitUntil(pool().dropClaim(runner.id, claimId));
      connection.signal.addEventListener("abort", drop, { once: true });
      const claim = { instanceId: input.instance_id, claimId, freeSlots: input.free_slots, waitMs };
      const answer = unwrap(await pool().claim(facts, claim));
      connection.signal.removeEventListener("abort", drop);
      switch (answer.type) {
        case "offer":
          return { job_id: answer.jobId, fence: answer.fence, offer_s: answer.offerMs / 1000 };
        case "drain":
          return { drain: true as const };
        case "nothing":
          return null;
      }
    },

    /** Takes an offer and gets the job with its token. @throws OFFER_GONE */
    async accept(token: string | null, jobId: number, fence: number) {
      const runner = await authenticate(token);
      const accepted = unwrap(await jobs.getByName(String(jobId)).accept(runner.id, fence));
      const claims = { jobId, attempt: accepted.attempt, fence: accepted.fence, datasetId: accepted.datasetId };
      return {
        job_token: await signJobToken(config.jwtSecret, claims, now(), accepted.timers.max_duration_s + 3_600),
        attempt: accepted.attempt,
        lease_s: config.timers.lease_s,
        spec: JSON.parse(accepted.specJson) as Record<string, unknown>,
        resume: accepted.resume,
        timers: { ...config.timers, ...accepted.timers },
        limits: config.limits,
      };
    },

    async offline(token: string | null, instanceId: string) {
      const runner = await authenticate(token);
      await pool().offline(runner.id, instanceId);
    },
  };
}
