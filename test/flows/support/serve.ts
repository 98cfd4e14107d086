/**
 * The flow tests' server for a program in another language: `node test/flows/support/serve.ts '{"lease_s":3}'` (timers that
 * replace the protocol's). Prints `{"url", "folder"}` when it is ready. Takes one word a line on stdin, `kill` (as a power
 * cut would) or `start`, and answers each with `{"done": …}`. Ends, and removes everything, when stdin ends.
 */
import { createInterface } from "node:readline";
import { startServer } from "./server.ts";

const timers = JSON.parse(process.argv[2] ?? "{}") as Record<string, number>;
const server = await startServer(timers);
const say = (value: unknown) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({ url: server.url, folder: server.folder });

for await (const word of createInterface({ input: process.stdin })) {
  if (word === "kill") await server.kill();
  else if (word === "start") await server.start();
  else if (word !== "output") throw new Error(`unknown word: ${word}`);
  say({ done: word, output: word === "output" ? server.output() : undefined });
}
await server.dispose();
process.exit(0);
