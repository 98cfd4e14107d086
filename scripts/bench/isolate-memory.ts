import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";

/** What an isolate holds, asked through V8's inspector protocol. */
export type IsolateMemory = {
  /** Bytes in use now, garbage included: JavaScript heap and the buffers behind it. Wasm memories are not among them. */
  usedBytes(): Promise<number>;
  /** Collects garbage and answers the bytes of each Wasm memory that is left. They never shrink. */
  wasmBytes(): Promise<number[]>;
};

const ContextSchema = z.object({
  method: z.literal("Runtime.executionContextCreated"),
  params: z.object({ context: z.object({ id: z.number() }) }),
});
const EvaluatedSchema = z.object({ result: z.object({ objectId: z.string() }) });
const QueriedSchema = z.object({ objects: z.object({ objectId: z.string() }) });
const NumbersSchema = z.object({ result: z.object({ value: z.array(z.number()) }) });
const TargetsSchema = z.array(z.object({ id: z.string(), webSocketDebuggerUrl: z.string() }));
const AnswerSchema = z.object({ id: z.number(), result: z.unknown().optional(), error: z.unknown().optional() });
const UsageSchema = z.object({
  usedSize: z.number(),
  embedderHeapUsedSize: z.number().default(0),
  backingStorageSize: z.number().default(0),
});

/** An isolate that computes answers late. */
const ANSWER_MS = 60_000;

/**
 * Connects to one Worker of a Miniflare.
 * @param inspector Miniflare's inspector address
 * @param worker the Worker's name
 */
export async function isolateMemory(inspector: URL, worker: string): Promise<IsolateMemory> {
  const list = new URL("/json", inspector.href.replace(/^ws/, "http"));
  const targets = TargetsSchema.parse(await (await fetch(list)).json());
  const target = targets.find(({ id }) => id.includes(worker));
  if (target === undefined) throw new Error(`no inspector target for ${worker}`);
  const socket = new WebSocket(target.webSocketDebuggerUrl);
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener("open", () => resolve(), { once: true });
    socket.addEventListener("error", () => reject(new Error("the inspector does not answer")), { once: true });
  });
  let lastId = 0;
  const waiting = new Map<number, (answer: z.infer<typeof AnswerSchema>) => void>();
  let contextId: number | null = null;
  socket.addEventListener("message", ({ data }) => {
    const message: unknown = JSON.parse(String(data));
    contextId = ContextSchema.safeParse(message).data?.params.context.id ?? contextId;
    const answer = AnswerSchema.safeParse(message);
    if (!answer.success) return;
    waiting.get(answer.data.id)?.(answer.data);
    waiting.delete(answer.data.id);
  });
  const ask = async (method: string, params: Record<string, unknown> = {}) => {
    lastId += 1;
    const id = lastId;
    const answered = new Promise<z.infer<typeof AnswerSchema>>((resolve) => waiting.set(id, resolve));
    socket.send(JSON.stringify({ id, method, params }));
    const answer = await Promise.race([answered, delay(ANSWER_MS, null, { ref: false })]);
    if (answer === null || answer.error !== undefined)
      throw new Error(`inspector: ${method}: ${JSON.stringify(answer)}`);
    return answer.result;
  };
  const usedBytes = async () => {
    const { usedSize, embedderHeapUsedSize, backingStorageSize } = UsageSchema.parse(await ask("Runtime.getHeapUsage"));
    return usedSize + embedderHeapUsedSize + backingStorageSize;
  };
  const wasmBytes = async () => {
    if (contextId === null) await ask("Runtime.enable");
    const { result } = EvaluatedSchema.parse(
      await ask("Runtime.evaluate", { expression: "WebAssembly.Memory.prototype", contextId }),
    );
    // The application's class of memories takes the place of the platform's; instances of both descend from the latter.
    const base = EvaluatedSchema.parse(
      await ask("Runtime.callFunctionOn", {
        objectId: result.objectId,
        functionDeclaration:
          "function () { const above = Object.getPrototypeOf(this); return above === Object.prototype ? this : above }",
      }),
    );
    // This collects garbage first.
    const { objects } = QueriedSchema.parse(
      await ask("Runtime.queryObjects", { prototypeObjectId: base.result.objectId }),
    );
    const { result: sizes } = NumbersSchema.parse(
      await ask("Runtime.callFunctionOn", {
        objectId: objects.objectId,
        functionDeclaration:
          "function () { return this.flatMap((it) => { try { return [it.buffer.byteLength] } catch { return [] } }) }",
        returnByValue: true,
      }),
    );
    return sizes.value;
  };
  return { usedBytes, wasmBytes };
}
