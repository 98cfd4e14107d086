import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, it } from "vitest";
import { ROOT } from "../../scripts/lib/wrangler.ts";
import { User } from "./support/api.ts";
import { type FlowServer, startServer } from "./support/server.ts";

/** Section 12 of the runner protocol as a person would do it: a token from the command line, then curl. */

const run = promisify(execFile);
const CONTRACT_DATASET = "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef";

let server: FlowServer;
let user: User;

const makeToken = async (...args: string[]) => {
  const script = join(ROOT, "scripts/runner-token.ts");
  const { stdout } = await run(process.execPath, [script, "--persist-to", server.folder, ...args]);
  return stdout.trim();
};
const oneJob = (registrationToken: string, machine: string) =>
  run("sh", [join(ROOT, "scripts/one-job.sh")], {
    env: { ...process.env, URL: server.url, REG: registrationToken, MACHINE: machine },
    timeout: 60_000,
  });

beforeAll(async () => {
  server = await startServer();
  user = await User.logIn(server.url);
}, 90_000);

afterAll(() => server?.dispose());

describe("one job by hand", () => {
  it("goes from registration to its end with curl alone", async ({ expect }) => {
    const token = await makeToken();
    expect(token).toMatch(/^cvreg_[0-9a-f]{48}$/);
    const config = { framework: "timm", model_name: "resnet50", dataset_id: CONTRACT_DATASET, epochs: 1 };
    const jobId = await user.createJob(config);
    const [{ stdout }] = await Promise.all([oneJob(token, "by-hand"), user.start(jobId)]);
    expect(stdout).toContain(`job ${jobId} is done`);

    const done = await user.job(jobId);
    expect(done).toMatchObject({ status: "completed", reason: "done", attempt: 1, data_complete: true });
    expect(await user.metrics(jobId)).toMatchObject([{ epoch: 1, loss: 0.45, accuracy: null }]);
    expect(await user.logs(jobId)).toMatchObject([{ log_type: "stdout", message: "epoch 1, loss 0.45" }]);

    // The token was for one machine.
    await expect(oneJob(token, "another")).rejects.toThrow(/one-job: .*registration token/i);
  });

  it("refuses a token that would be good for too long or for nobody", async ({ expect }) => {
    await expect(makeToken("--ttl", "3601")).rejects.toThrow(/--ttl: .*3600/);
    await expect(makeToken("--uses", "0")).rejects.toThrow(/--uses/);
    await expect(makeToken("--uses", "many")).rejects.toThrow(/--uses/);
  });
});
